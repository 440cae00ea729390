"""Views of an image, and scores that are averaged over them."""

import pytest
import torch

from dl2pa.data.views import over_views, views_of

IMAGE = torch.arange(12.0).view(1, 1, 3, 4)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_weights_sum_to_one_and_the_image_comes_first(count: int) -> None:
    weights, views = zip(*views_of(IMAGE, count), strict=True)
    assert len(views) == count
    assert sum(weights) == 1
    assert torch.equal(views[0], IMAGE)
    assert all(view.shape == IMAGE.shape for view in views)


def test_the_views_pixel_by_pixel() -> None:
    views = [view[0, 0].int().tolist() for _, view in views_of(IMAGE, 6)]
    assert views == [
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]],
        [[3, 2, 1, 0], [7, 6, 5, 4], [11, 10, 9, 8]],
        [[0, 0, 1, 2], [0, 0, 1, 2], [4, 4, 5, 6]],
        [[5, 6, 7, 7], [9, 10, 11, 11], [9, 10, 11, 11]],
        [[3, 3, 2, 1], [3, 3, 2, 1], [7, 7, 6, 5]],
        [[6, 5, 4, 4], [10, 9, 8, 8], [10, 9, 8, 8]],
    ]
    assert [weight for weight, _ in views_of(IMAGE, 6)] == [0.25] * 2 + [0.125] * 4


def test_an_image_of_one_pixel_has_six_views() -> None:
    assert all(torch.equal(view, torch.ones(2, 3, 1, 1)) for _, view in views_of(torch.ones(2, 3, 1, 1), 6))


def test_features_and_scores_are_means_over_the_views() -> None:
    """Of a model that reads the corners: features are the upper left pixel, scores it and the lower right one."""

    def model(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, last = images[:, :, 0, 0], images[:, :, -1, -1]
        return first, torch.cat([first, last], dim=1)

    features, scores, alone = over_views(model, IMAGE, 6)
    assert features.tolist() == [[(2 * 0 + 2 * 3 + 0 + 5 + 3 + 6) / 8]]
    assert scores.tolist() == [[(2 * 0 + 2 * 3 + 0 + 5 + 3 + 6) / 8, (2 * 11 + 2 * 8 + 6 + 11 + 5 + 8) / 8]]
    assert alone.tolist() == [[0, 11]]
    assert over_views(model, IMAGE, 1)[1].tolist() == [[0, 11]]
