"""Build the embedded data set ``openclipart-mini`` from Debian's ``openclipart-png``.

Unpack the package with ``dpkg-deb -x openclipart-png_0.18*.deb DIR`` and name DIR. All but the
README's prose is made anew; the same package and the same Pillow give the same bytes.
"""

import argparse
import csv
import hashlib
import random
import re
import shutil
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from PIL import Image

DEFAULT_OUT = Path(__file__).parents[1] / "bit_keras/assets/openclipart-mini"
PNG_ROOT = "usr/share/openclipart/png"
SIZE, MARGIN, COLOURS, SEED, TEST_SHARE = 96, 3, 128, 0, 0.25
MAX_PIXELS = 16_000_000  # three files of the package are decompression bombs
MIN_CONTENT = 32  # longer side of what is drawn, in source pixels
SAME = 4.0  # mean absolute difference of 16×16 thumbnails (0..255): a near-duplicate, dropped
ALIKE, ALIKE_BITS = 14.0, 6  # thumbnail difference or dHash bits: kept in one split
DARK, OPAQUE = [255] * 245 + [0] * 11, [0] * 17 + [255] * 239  # look-up tables: content or not
Image.MAX_IMAGE_PIXELS = None  # `read` has its own, lower limit

# Where each class comes from. Regular files only: the package's symbolic links repeat images.
# The four drawings of `people` that are vehicles are linked into `transportation` there, too.
CLASSES = {
    "flags": "signs_and_symbols/flags/africa/* signs_and_symbols/flags/asia/**/*",
    "fruit": "food/fruit/*",
    "mammals": "animals/mammals/**/*",
    "patterns": "special/patterns/*",
    "people": "people/*",
    "pictograms": "signs_and_symbols/map_symbols/*",
    "tools": "tools/*",
    "vehicles": """transportation/* transportation/boating/* transportation/vehicles/**/*
        people/beach_trip_* people/car_ride_* people/fire_engine_* people/sailing_kids*""",
}
# Files (stems or patterns) left out: another subject, illegible at this size, "linked image not
# found" renderings, photographs of private persons, portraits of known persons, nudes, logos.
EXCLUDE = {
    "flags": "chinese_flag_* israeli_flag_* maledives pakistani_* south_korea_-_*",
    "fruit": """eris_apple_* gumnut_* juice_glass_* lime_half_jarno_* straw_tote_* tile_orange_*
        tree_whit_* turkey_platter_*""",
    "mammals": """sleeping_bear_* elephant_outline_* emule_* cartoon_vgcats_*
        cat_scrathing_post_* mhooo_* shaezy_* skoynk_* squeek_* toro_al_tramonto_*""",
    "patterns": "pattern-dots-*-01 pattern-dots-*-14 pattern-line-explosion-*",
    "people": """3_faces_* a_[bhmy]* alien_* baby_* backpacker_* beach_trip_* blue_eye_*
        boy_symbol_* brozo_* buddy* camper_* car_ride_* dancers_* don_t_panic_* einstein_*
        elfish_* enthusiast eyes_* female_* fire_engine_* fireman_enrique_* future_beckham_*
        gender_* girl_symbol_* grampa_* grandpa_* hide_girl_* hygieia_* jazz_* john_coltrane_*
        man0? man_crystal_* martin_luther_* my_lovely_* pregnancy_* safety_pin_* sailing_kids
        samoa_* saxowoman_* self_portrait_* sexy_* silhouette_* silvia_* skull_* stripper_* styl*
        symbolic_boy_* team_sketch_* van_gogh_* wedding_sign_* woman0? woman_eye*""",
    "pictograms": "*rpg_map* coffee_jean* compass_* mapa_*",
    "tools": """bottle_* bucket_* gallows_* green_burner_* orange_burner_* insecticide_* kexi_*
        lampada_* mattone_* metal_cage_* natural_gas_* nodding_* paint_roller_border_*
        paint_roller_wall_* panel_* pansement_* scart_* simple_shovel_* scola* smoke_* thermo*""",
    "vehicles": """Evel_Knievel Motorway_on airplane anchor* bambi bus_lane bus_opposite
        buses_and_bikes cattle crosswind cycle_lane cycles drawbridge end_daul grounded horse
        kaboom little_tan_* lorry_length no_cycles no_entry old_folks pass_either shelby_*
        street_sign_* crossroads curve_ahead cycle_route lighthouse_* the_mad_* boating_rules*
        knot_* sailboat_illustration_labels */hummers/* sailing_cl* sailing_[!ck]*""",
}
# Series that names and pixels do not show to be one: kept in one split.
SERIES = r"""
    aiga.*arrow aiga_(stairs|escalator) aiga_(barber|beauty) aiga_(air|depart) aiga_(customs|immigr)
    aiga_toilet aiga_(car|taxi|ground|bus) aiga_(no_)?parking (lemon|lime)_.*ganson
    apple(_bw)?$|applf (peach|orange)_simple (hammer|axe)_peterm sailing_ ruota|cog|engrenagem
    mag\d|magnif|lente paint_roller (b_w|color)_tiger_susan (happy|angry)_monkey orso ppls?\d?$
    card_figure utent[ei]_ sign(ore|orina)_ woman_.*gerald rich_young (bach|beethov|handel) head\d
    (beach|car)_(trip|ride) autos_|bus_01 dodge_neon 1989_chev|_chevrolet blokken|pattern-check
    pattern-(warning|danger) pattern-dot
"""


def read(path: Path, keep_white: bool) -> Image.Image | None:
    """Read a drawing on white, cut to its content and put into a square; None if unfit."""
    with Image.open(path) as image:
        if image.width * image.height > MAX_PIXELS:
            return None
        rgba = image.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    content = rgba.getchannel("A").point(OPAQUE) if keep_white else flat.convert("L").point(DARK)
    box = content.getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) < MIN_CONTENT:
        return None
    flat = flat.crop(box)
    scale = (SIZE - 2 * MARGIN) / max(flat.size)
    size = tuple(max(1, round(n * scale)) for n in flat.size)
    square = Image.new("RGB", (SIZE, SIZE), "white")
    square.paste(flat.resize(size, Image.Resampling.LANCZOS), tuple((SIZE - n) // 2 for n in size))
    return square.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def prints(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Return the 16×16 RGB thumbnail and the 64-bit difference hash of an image."""
    rgb, box = image.convert("RGB"), Image.Resampling.BOX
    gray = np.asarray(rgb.convert("L").resize((9, 8), box), np.int16)
    return np.asarray(rgb.resize((16, 16), box), np.float32), gray[:, 1:] > gray[:, :-1]


def series(stem: str) -> str:
    """Return the key that the drawings of one series share."""
    for number, pattern in enumerate(SERIES.split()):
        if re.match(pattern, stem):
            return str(number)
    return re.sub(r"[^a-z]", "", re.sub(r"_(bw|colou?r)(?=_|$)", "", stem.lower()))


def select(root: Path) -> list[dict]:
    """Return the chosen drawings, each with image, class and group, without near-duplicates."""
    chosen: list[dict] = []
    for label, sources in CLASSES.items():
        left_out = EXCLUDE[label].split()
        max_bits = -1 if label == "flags" else ALIKE_BITS  # flags share layouts
        paths = {p for source in sources.split() for p in root.glob(f"{source}.png")}
        for path in sorted(p for p in paths if not p.is_symlink()):
            source = path.relative_to(root).as_posix()
            if any(fnmatchcase(n, out) for out in left_out for n in (path.stem, source)):
                continue
            image = read(path, keep_white=label in ("flags", "patterns"))
            if image is None:
                continue
            thumb, bits = prints(image)
            distances = [float(np.abs(thumb - c["thumb"]).mean()) for c in chosen]
            if min(distances, default=255) < SAME:
                continue
            key = series(path.stem)
            like = {len(chosen)}  # the groups that this drawing makes one
            for other, distance in zip(chosen, distances, strict=True):
                close = distance < ALIKE or np.sum(bits != other["bits"]) <= max_bits
                if other["label"] == label and (close or key == other["key"]):
                    like.add(other["group"])
            item = {"path": path, "source": source, "label": label, "image": image}
            chosen.append(item | {"thumb": thumb, "bits": bits, "key": key, "group": len(chosen)})
            for member in chosen:
                member["group"] = min(like) if member["group"] in like else member["group"]
    return chosen


def split(chosen: list[dict]) -> list[dict]:
    """Set ``split`` of every drawing: seeded, per class, whole groups only."""
    for label in CLASSES:
        items = [item for item in chosen if item["label"] == label]
        groups = sorted({item["group"] for item in items})
        random.Random(f"{SEED}-{label}").shuffle(groups)
        room = round(TEST_SHARE * len(items))
        for group in groups:
            members = [item for item in items if item["group"] == group]
            test = len(members) <= min(room, 8)
            room -= len(members) * test
            for item in members:
                item["split"] = "test" if test else "train"
    return chosen


def write(chosen: list[dict], out: Path) -> None:
    """Write images, provenance.csv and README.md (its prose kept, its table new) into `out`."""
    prose = (DEFAULT_OUT / "README.md").read_text(encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    table = []
    for item in chosen:
        slug = re.sub(r"[^a-z0-9]+", "_", item["path"].stem.lower()).strip("_")
        name = f"{item['split']}/{item['label']}/{slug}.png"
        if (out / name).exists():
            raise ValueError(f"{item['source']}: {name} is taken")
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        item["image"].save(out / name, optimize=True)
        with Image.open(item["path"]) as original:
            tags = [str(original.info.get(k, "")).encode("latin-1") for k in ("Title", "Author")]
        tags = [" ".join(tag.decode("utf-8", "replace").split()) for tag in tags]  # UTF-8 in tEXt
        digest = hashlib.sha256(item["path"].read_bytes()).hexdigest()
        table.append([name, f"{PNG_ROOT}/{item['source']}", digest, *tags])
    with open(out / "provenance.csv", "w", newline="", encoding="utf-8") as file:
        header = ["file", "source", "source_sha256", "title", "author"]
        csv.writer(file, lineterminator="\n").writerows([header, *sorted(table)])
    count = Counter((item["label"], item["split"]) for item in chosen)
    rows = ["| class | train | test |", "|---|---:|---:|"]
    rows += [f"| `{name}` | {count[name, 'train']} | {count[name, 'test']} |" for name in CLASSES]
    prose = re.sub(r"(?m)^\|.*\n(\|.*\n)+", "\n".join(rows) + "\n", prose, count=1)
    (out / "README.md").write_text(prose, encoding="utf-8")


def main() -> None:
    """Build the data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, help="DIR: where the package was unpacked")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    args = parser.parse_args()
    write(split(select(args.package / PNG_ROOT)), args.out)


if __name__ == "__main__":
    main()
