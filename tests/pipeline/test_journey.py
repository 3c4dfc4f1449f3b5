"""How many functions hand one activation scale on, from the synthesis of the features to the built plan."""

from tools.journey import Form, told, travel

MOST_HOPS, MOST_FUNCTIONS = 42, 65  # looks aside counted too; both may only fall


def test_the_journey_of_a_scale_is_short(tmp_path) -> None:
    journey = travel(tmp_path)
    print(told(journey))  # noqa: T201 - the route, under -s
    route = list(journey.route.items())
    assert route[0][0][0] == "quant/synthesize.py"
    assert route[-1][1] == Form.PLAN
    assert {form for _, form in route} == set(Form) - {Form.NONE, Form.VALUES}  # values are handed on by `observe`
    assert len(journey.hops & journey.route.keys()) <= MOST_HOPS
    assert len(route) <= MOST_FUNCTIONS
