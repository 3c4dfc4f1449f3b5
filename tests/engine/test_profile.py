"""Both ends of the range that a plan accepts, and which of them a shape is nearer to."""

from trtasr.engine.profile import Alone, Profile, bucketed, nearest


def profile(batches=(1, 1, 8), seconds=(0.2, 5.0, 20.0)):
    return Profile(batches=batches, seconds=seconds, frames_per_second=100, mel_bins=64)


def test_the_busy_end_has_the_same_range_and_the_largest_shape_as_its_usual_one():
    assert profile().shapes() == {
        "features": [[1, 64, 20], [1, 64, 512], [8, 64, 2016]],
        "lengths": [[1], [1], [8]],
    }
    assert profile().busy_shapes() == {
        "features": [[1, 64, 20], [8, 64, 2016], [8, 64, 2016]],
        "lengths": [[1], [8], [8]],
    }


def test_where_the_usual_shape_is_the_largest_there_is_no_other_end():
    assert profile((1, 8, 8), (0.2, 20.0, 20.0)).busy_shapes() == {}
    assert profile((1, 8, 8)).busy_shapes()


def test_nearest_goes_by_the_ratio_of_sizes():
    tuned = [(1, 64, 512), (8, 64, 2016)]
    assert nearest(tuned, (1, 64, 200)) == nearest(tuned, (1, 64, 2016)) == nearest(tuned, (2, 64, 512)) == 0
    assert nearest(tuned, (8, 64, 2016)) == nearest(tuned, (8, 64, 704)) == nearest(tuned, (4, 64, 1680)) == 1
    assert nearest([(1, 64, 512)], (8, 64, 2016)) == 0
    assert nearest([(2, 4), (2, 4)], (0, 4)) == 0  # an empty tensor has a size, too


def test_frames_come_in_whole_buckets_up_to_what_a_plan_takes():
    assert [bucketed(frames, 200) for frames in (0, 1, 64, 65, 192, 193, 200, 201)] == [
        0,
        64,
        64,
        128,
        192,
        200,
        200,
        201,
    ]


def test_a_plan_for_one_utterance_has_the_same_lengths_and_no_busy_end():
    alone = Alone(profile())
    assert alone.shapes() == {"features": [[1, 64, 20], [1, 64, 512], [1, 64, 2016]], "lengths": [[1], [1], [1]]}
    assert alone.busy_shapes() == {}
