"""Rendered frames with their depth, from walks through Freedoom's maps; some maps are learnt from, others tested on."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from benchmarks.real import pictures
from benchmarks.real.sets import save
from unicscale.errors import DataError

LEARN, TEST = (
    ("MAP01", "MAP02", "MAP03", "MAP04", "MAP05", "MAP06", "MAP07", "MAP08"),
    ("MAP09", "MAP10", "MAP11", "MAP12"),
)
PER_MAP = {"pictures": 150, "train": 75, "val": 75}  # frames
FAR = 10.0  # of a set.yaml; the depth buffer's 255 stands there
TOO_NEAR = 4  # median of the buffer: nothing but a wall in front of one's nose


def write(packages: dict[str, Path], place: Path, depth: Path) -> None:
    """frames/ to distil on, and a depth set, in a process of its own: the game leaves threads behind."""
    jobs = [("pictures", place / "frames", LEARN), ("sets", depth, (*LEARN, *TEST))]
    for kind, target, maps in jobs:
        if target.is_dir():
            continue
        unfinished = target.with_name(f"{target.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        player = multiprocessing.get_context("spawn").Process(
            target=_play_all, args=(packages["vizdoom"].resolve(), unfinished.resolve(), kind, maps)
        )
        player.start()
        player.join()
        if player.exitcode:
            raise DataError(f"vizdoom could not be played here (exit {player.exitcode}); its depth is left out")
        unfinished.rename(target)


def _play_all(package: Path, place: Path, kind: str, maps: tuple[str, ...]) -> None:
    sys.path.insert(0, str(package))
    (package / "vizdoom" / "vizdoom").chmod(0o755)  # the game itself; zipfile keeps no permissions
    os.chdir(package)  # it writes its settings where it is started
    for name in maps:
        split = "val" if name in TEST else "train"
        count = PER_MAP["pictures" if kind == "pictures" else split]
        for number, (picture, depth) in enumerate(_play(name, count, seed=int(kind == "pictures"))):
            file = f"{name}-{number:03}"
            if kind == "pictures":
                save(picture, place / f"{file}.jpg")
            else:
                save(picture, place / "images" / split / f"{file}.jpg")
                save(depth, place / "depth" / split / f"{file}.png")
    if kind == "sets":
        (place / "set.yaml").write_text(yaml.safe_dump({"unit": FAR / 255, "far": FAR}))


def _play(name: str, count: int, seed: int) -> list[tuple[Image.Image, Image.Image]]:
    """Frames of one map, seen from wherever a walk by chance leads."""
    import vizdoom

    game, draw = vizdoom.DoomGame(), np.random.default_rng([int(name[3:]), seed])
    game.load_config(str(Path(vizdoom.scenarios_path) / "deathmatch.cfg"))
    game.set_doom_scenario_path("")
    game.set_doom_game_path(str(Path(vizdoom.__file__).parent / "freedoom2.wad"))
    game.set_doom_map(name)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_depth_buffer_enabled(True)
    for switch in (game.set_render_hud, game.set_render_weapon, game.set_render_crosshair, game.set_window_visible):
        switch(False)
    game.set_seed(1 + seed)
    game.set_available_buttons([vizdoom.Button.MOVE_FORWARD, vizdoom.Button.TURN_LEFT_RIGHT_DELTA, vizdoom.Button.USE])
    game.add_game_args("+sv_cheats 1")
    game.init()
    game.send_game_command("god")
    found: list[tuple[Image.Image, Image.Image]] = []
    while len(found) < count:
        if game.is_episode_finished():
            game.new_episode()
            game.send_game_command("god")
        for _ in range(3):
            if not game.is_episode_finished():
                game.make_action([1, float(draw.normal(0, 25)), float(draw.random() < 0.3)], 5)
        state = game.get_state()
        if state is None:
            continue
        if np.median(state.depth_buffer) < TOO_NEAR:
            game.make_action([0, float(draw.choice([90, -90, 150])), 1], 1)
            continue
        middle = (40, 0, 280, 240)
        picture = Image.fromarray(state.screen_buffer).crop(middle)
        side = (pictures.STORED,) * 2
        depth = Image.fromarray(state.depth_buffer).crop(middle).resize(side, Image.Resampling.NEAREST)
        found.append((picture.resize(side, Image.Resampling.LANCZOS), depth))
    game.close()
    return found
