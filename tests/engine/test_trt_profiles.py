"""A plan with an optimization profile for one short utterance and one for a batch of long ones."""

from types import SimpleNamespace

import numpy as np
import pytest

from trtasr.engine.plan import Plan
from trtasr.errors import BuildError

SHORT, LONG = [(1, 4, 1), (1, 4, 10), (8, 4, 40)], [(1, 4, 1), (8, 4, 40), (8, 4, 40)]
STREAM = 77


class Context:
    """Notes which profile it was given on which stream, and the shapes of its inputs."""

    def __init__(self, accepts):
        self.accepts, self.profile, self.shapes = accepts, [], {}

    def set_optimization_profile_async(self, index, stream):
        self.profile.append((index, stream))
        return self.accepts

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True


@pytest.fixture
def opened(tmp_path):
    """Opens a plan of some profiles on a fake engine; gives it and the list of its contexts."""

    def opened(profiles, accepts=True, memory=2):
        contexts = []

        def create():
            if len(contexts) == memory:
                return None
            contexts.append(Context(accepts))
            return contexts[-1]

        engine = SimpleNamespace(
            num_io_tensors=1,
            num_optimization_profiles=len(profiles),
            get_tensor_name=lambda index: "features",
            get_tensor_mode=lambda name: "in",
            get_tensor_dtype=lambda name: np.float32,
            get_tensor_profile_shape=lambda name, index: profiles[index],
            create_execution_context=create,
        )
        trt = SimpleNamespace(
            __version__="10.16.1", TensorIOMode=SimpleNamespace(INPUT="in"), nptype=lambda dtype: dtype
        )
        path = tmp_path / "model.plan"
        path.write_bytes(b"plan")
        return Plan(path, trt, SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)), contexts

    return opened


def test_a_shape_runs_under_the_profile_that_is_tuned_nearest(opened):
    plan, contexts = opened([SHORT, LONG])
    for shape, index in (((1, 4, 10), 0), ((1, 4, 40), 0), ((8, 4, 40), 1), ((4, 4, 20), 1), ((2, 4, 10), 0)):
        plan.choose(shape, STREAM)
        assert plan.context is contexts[index]
        plan.set_shape("features", shape)
        assert contexts[index].shapes["features"] == shape
    assert len(contexts) == 2  # each keeps its profile
    assert [context.profile for context in contexts] == [[], [(1, STREAM)]]  # the first one has the first by itself


def test_a_plan_of_one_profile_has_one_context(opened):
    plan, contexts = opened([SHORT])
    plan.choose((8, 4, 40), STREAM)
    assert plan.context is contexts[0]
    assert len(contexts) == 1
    assert contexts[0].profile == []


@pytest.mark.parametrize("options", [{"accepts": False}, {"memory": 1}])
def test_where_there_is_no_context_for_the_second_profile_the_first_takes_its_shapes(opened, options, caplog):
    plan, contexts = opened([SHORT, LONG], **options)
    for _ in range(2):
        plan.choose((8, 4, 40), STREAM)
        plan.set_shape("features", (8, 4, 40))
        assert plan.context is contexts[0]
    assert caplog.text.count("no context for optimization profile 1") == 1


def test_a_plan_without_memory_for_any_context_is_refused(opened):
    with pytest.raises(BuildError, match="no GPU memory for its activations"):
        opened([SHORT, LONG], memory=0)
