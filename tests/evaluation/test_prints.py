import pytest
import torch

from colorize_utils.colour import gray_levels, luma, unit
from colorize_utils.data import PairDataset, degradation, make_loader
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.evaluation.prints import format_prints, on_luminance, score_prints
from colorize_utils.metrics import gray_baseline, psnr


def loader(count=6, size=48):
    return make_loader(PairDataset(synthetic_flowers(count, size)), 4)


def test_luminance_is_the_given_one_to_the_level():
    levels = torch.from_numpy(synthetic_flowers(5, 32)).permute(0, 3, 1, 2)
    gray = unit(gray_levels(levels))
    other = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    merged = on_luminance(gray, other)
    assert torch.equal(gray_levels((255 * merged).round().byte()), gray_levels(levels))
    assert (merged - unit(levels)).abs().max() > 0.05
    torch.testing.assert_close(on_luminance(gray, unit(levels)), unit(levels), atol=1.01 / 255, rtol=0)


def test_the_chroma_from_the_print_on_the_clean_luminance_inside_the_border(monkeypatch):
    """Witness: pictures cut out and scored one by one, of a painter that paints what is bright red."""
    for share in ("SOFT", "GRAINY", "DUSTY", "JPEG"):
        monkeypatch.setattr(degradation, share, 0.0)
    monkeypatch.setattr(degradation, "BORDERED", 1.0)
    shown = []

    def painter(gray):
        shown.append(gray)
        chroma = torch.tensor([0.2, -0.2 * 19595 / 38470, 0.0])[None, :, None, None]
        return gray + chroma * (gray > 0.5)

    (score,) = score_prints({"red": painter}, loader(), seed=3)
    assert score.pictures == 6
    expected = {"clean": [], "old": [], "gray": []}
    for (real, gray), clean, old in zip(loader(), shown[::2], shown[1::2], strict=True):
        assert torch.equal(gray, clean)
        for index, print_ in enumerate(old[:, 0]):
            paper = print_[0, 0]
            assert paper > 0.8
            rows, columns = ((print_ != paper).any(dim=dim).nonzero() for dim in (1, 0))
            part = (
                slice(index, index + 1),
                slice(None),
                slice(rows[0], rows[-1] + 1),
                slice(columns[0], columns[-1] + 1),
            )
            expected["gray"].append(psnr(gray[part].expand(-1, 3, -1, -1), real[part]))
            for way, seen in (("clean", gray), ("old", old)):
                fake = on_luminance(gray, painter(seen).clamp(0, 1))
                expected[way].append(psnr(fake[part], real[part]))
    means = {way: torch.cat(numbers).mean().item() for way, numbers in expected.items()}
    assert score.clean.psnr == pytest.approx(means["clean"], abs=1e-4)
    assert score.old.psnr == pytest.approx(means["old"], abs=1e-4)
    assert score.old.gain == pytest.approx(means["old"] - means["gray"], abs=1e-4)
    assert score.lost == pytest.approx(means["clean"] - means["old"], abs=1e-4)
    assert score.lost != 0


def test_a_painter_that_sees_nothing_loses_nothing():
    gray, blind = score_prints({"gray": gray_baseline, "green": _green}, loader(), seed=1)
    assert (gray.clean.gain, gray.old.gain, gray.lost) == (0, 0, 0)
    assert abs(blind.lost) < 0.2  # by rounding, and where the print was too bright or dark for the chroma
    assert blind.clean.ciede2000 != gray.clean.ciede2000
    table = format_prints([gray, blind]).splitlines()
    assert table[2].startswith("| gray | ") and table[2].endswith("| +0.00 | " + f"{gray.old.ciede2000:.2f} | 0.00 |")
    assert len({line.count("|") for line in table}) == 1


def _green(gray):
    colour = torch.tensor([-0.05, 0.0, -0.05])[None, :, None, None].expand(len(gray), -1, *gray.shape[-2:])
    return (gray + colour - luma(colour)).clamp(0, 1)


def test_the_seed_decides_the_prints_and_all_painters_see_the_same():
    shown = {"one": [], "other": []}

    def painter(name):
        return lambda gray: shown[name].append(gray) or gray_baseline(gray)

    painters = {name: painter(name) for name in shown}
    score_prints(painters, loader(), seed=1)
    for one, other in zip(shown["one"], shown["other"], strict=True):
        assert torch.equal(one, other)
    first = shown["one"][1]
    assert torch.equal((255 * first).round() / 255, first)  # 8 bits, as of a scan
    shown["one"].clear()
    score_prints(painters, loader(), seed=2)
    assert not torch.equal(shown["one"][1], first)


def test_without_pictures_there_is_no_score():
    with pytest.raises(ValueError, match="no pictures"):
        score_prints({"gray": gray_baseline}, [])
