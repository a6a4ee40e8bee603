from typing import Any

import pytest

from harness.config.cells import parse_cell
from launch.planning.methods import flat_config, key, names, names_in_tasks, protocol

FEED_FORWARD = {"model": "feed-forward", "backprop": {"name": "unrolled", "steps": 1}}


def labels(*cells: dict[str, Any]) -> list[str]:
    parsed = {str(k): parse_cell({"model": "de-hqs", **cell}) for k, cell in enumerate(cells)}
    return [names(parsed)[str(k)].label for k in range(len(cells))]


def test_seed_alone_makes_no_new_method() -> None:
    first, second = (flat_config(parse_cell({"model": "de-hqs", "seed": seed})) for seed in (0, 1))
    assert key(first) == key(second)
    assert key(first) != key(flat_config(parse_cell({"model": "de-hqs", "steps": 7})))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([{}, {"backprop": "implicit"}], ["de-hqs jfb", "de-hqs implicit"]),
        ([{}, {"schedule": "fixed"}], ["de-hqs jfb cosine", "de-hqs jfb fixed"]),
        ([{}, {"optimizer": {"lr": 0.01}}], ["de-hqs jfb lr=0.001", "de-hqs jfb lr=0.01"]),
        ([{}, {"pool": None}], ["de-hqs jfb pool", "de-hqs jfb no pool"]),
        ([{}, {"solver": "picard"}], ["de-hqs jfb solver=anderson", "de-hqs jfb solver=picard"]),
        ([{}, {"model": "de-grad"}], ["de-hqs jfb", "de-grad jfb"]),
        ([{}, {"model": {"name": "de-hqs", "damping": 0.5}}], ["de-hqs jfb damping=0.45", "de-hqs jfb damping=0.5"]),
        ([{"physics": "paper"}, {"physics": "code2024"}], ["de-hqs jfb physics=paper", "de-hqs jfb physics=code2024"]),
        ([{}, {"backprop": "unrolled"}], ["de-hqs jfb", "du-hqs unrolled"]),
        (
            [{}, {**FEED_FORWARD, "optimizer": {"lr": 0.1}}, {**FEED_FORWARD, "network": "unet"}],
            ["de-hqs jfb", "dncnn feed-forward", "unet feed-forward"],
        ),
        ([{}, {"model": "mine.maps:Better"}], ["de-hqs jfb", "Better jfb"]),
        ([{}, {"operations": {"checkpoint_every": 7}}], ["de-hqs jfb", "de-hqs jfb"]),
    ],
)
def test_label_tells_what_differs_and_nothing_else(cells: list[dict[str, Any]], expected: list[str]) -> None:
    assert labels(*cells) == expected


def test_what_most_of_a_models_cells_share_is_said_of_the_others_only() -> None:
    few = {"data": {"train_images": 4}, "pool": None, "optimizer": {"lr": 0.1}}
    cells = [{}, {"backprop": "implicit"}, {"backprop": "neumann"}, few]
    assert labels(*cells) == ["de-hqs jfb", "de-hqs implicit", "de-hqs neumann",
                              "de-hqs jfb train_images=4 lr=0.1 no pool"]  # fmt: skip


def test_parameters_with_one_name_are_told_apart() -> None:
    both = labels({}, {"optimizer": {"lr": 0.01}, "pretraining": {"lr": 0.01}})
    assert both == [
        "de-hqs jfb pretraining.lr=0.002 optimizer.lr=0.001",
        "de-hqs jfb pretraining.lr=0.01 optimizer.lr=0.01",
    ]


def test_protocol_is_pictures_and_physics_but_not_where_they_lie() -> None:
    def of(**data: Any) -> str:
        return protocol(flat_config(parse_cell({"model": "de-hqs", "data": {"name": "celeba", **data}})))

    assert of(root="here") == of(root="there")
    assert of(root="here") != of(root="here", image_size=64)
    assert of(root="here") == of(root="here", train_images=200, crop=32), "scored on the same pictures"


def test_what_most_cells_have_is_not_said() -> None:
    cells = [{}, {"backprop": "neumann"}, {"pool": {"relaxation": None}}]
    assert labels(*cells) == ["de-hqs jfb", "de-hqs neumann", "de-hqs jfb no relaxation"]


def test_a_method_has_one_name_in_all_tasks() -> None:
    cells = [{"physics": physics, "pool": pool} for physics in ("paper", "code2024") for pool in (None, {"size": 48})]
    found = names_in_tasks({str(k): parse_cell({"model": "de-hqs", **cell}) for k, cell in enumerate(cells)})
    assert [found[str(k)].variant for k in range(4)] == ["jfb no pool", "jfb pool"] * 2
