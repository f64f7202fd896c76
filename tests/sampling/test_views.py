"""Views of a batch."""

import torch

from geometries_drawn import batch_of
from lemis.methods import pcl
from lemis.sampling import views
from lemis.sampling.draw import Rows
from lemis.sampling.spatial import Spatial


def test_two_views_are_drawn_as_a_methods_settings_say() -> None:
    batch = batch_of(torch.randn(3, 1, 40, 36))
    how = pcl.Settings(size_px=32, spatial=Spatial(p_mirror=1.0))
    drawn = views.TwoViews(how)(batch, Rows(3, 4, "cpu"))
    rng = Rows(3, 4, "cpu")
    for name in ("first", "second"):
        assert torch.equal(drawn[name].image, views.random_view(how.spatial, batch, 32, rng).image)
    assert not torch.equal(drawn["first"].image, drawn["second"].image)


def test_what_is_inside_is_everything_unless_the_batch_says_otherwise() -> None:
    batch = batch_of(torch.randn(2, 3, 5, 4))
    filled = views.all_inside(batch)
    assert filled.inside is not None
    assert filled.inside.shape == (2, 1, 5, 4)
    assert filled.inside.all()
    known = batch_of(batch.image, inside=torch.rand(2, 1, 5, 4) < 0.5)
    assert views.all_inside(known) is known
