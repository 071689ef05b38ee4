"""What was broken on purpose in 0.1.0, each reproduction run again: `python benchmarks/redteam.py`.

Every line names the tests that do what was done then, at the same depth; a line held when all of them pass. Some have
two ranks, some are killed; all together they take some minutes. --only WORD runs the lines that hold the word.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results" / "redteam.json"
MACHINE = "2 cores of a shared AMD EPYC, 24 GB, no GPU"

# what was done -> (what happened in 0.1.0, the tests that do it; `fuzz:DOOR` is a door of tests/fuzz)
LINES: dict[str, tuple[str, list[str]]] = {
    # silent wrong results
    "two evaluations of one run at once, one cache": (
        "wrong scores",
        [
            "evaluate/test_features.py::test_two_evaluations_at_once_do_not_write_into_each_others_file",
            "evaluate/test_features.py::test_what_a_killed_process_left_behind_goes_and_a_living_ones_file_stays",
        ],
    ),
    "PHI-S on 1, 2, 3 and 4 ranks": (
        "other weights per number of ranks",
        ["objective/test_worlds.py::test_phi_s_turns_the_targets_by_the_same_bits_on_any_number_of_ranks"],
    ),
    "PHI-S on tokens that do not change": (
        "targets that turn",
        ["objective/test_standardize.py::test_phi_s_freezes_with_the_rotation_of_all_that_it_saw"],
    ),
    "drop rates of timm, stopped and gone on": (
        "other bytes",
        ["student/test_trunks.py::test_what_cannot_learn_is_refused_in_words"],
    ),
    "a teacher that writes into its images": (
        "the next teacher learns from zeros",
        ["teacher/test_door.py::test_a_teacher_that_writes_into_its_images_writes_into_its_own"],
    ),
    "channels that sleep and wake, tokens all alike, 1e30": (
        "losses of 1e3 to 4e28",
        [
            "objective/test_standardize.py::test_a_channel_that_sleeps_and_wakes_does_not_drown_the_others",
            "objective/test_standardize.py::test_tokens_that_are_all_alike_are_said_to_be",
            "teacher/test_targets.py::test_what_is_odd_about_a_teacher_is_said_once",
        ],
    ),
    "flipped bits in betons without checksums or manifest": (
        "other pixels, aborts",
        [
            "data/test_beton.py::test_a_flipped_bit_of_an_index_without_manifest_gives_no_other_pixels",
            "data/test_beton.py::test_one_changed_byte_of_an_image_is_noticed",
            "fuzz:beton",
        ],
    ),
    "images, masks, class names changed under their old names": (
        "the old result",
        [
            "evaluate/test_features.py::test_images_that_changed_are_measured_again",
            "evaluate/test_features.py::test_another_picture_under_the_same_name_is_another_set",
            "evaluate/test_features.py::test_another_mask_or_image_of_a_dense_set_is_another_set",
            "evaluate/test_suites.py::test_other_class_names_are_another_task",
        ],
    ),
    "--fresh killed half-way, recipe.yaml deleted, another recipe": (
        "goes on from the other run",
        [
            "run/test_folder.py::test_a_start_over_that_is_cut_short_leaves_nothing_that_another_recipe_goes_on_from",
            "run/test_folder.py::test_a_folder_whose_recipe_was_deleted_belongs_to_the_recipe_of_its_checkpoint",
            "checkpoint/test_checkpoint.py::test_a_checkpoint_of_another_recipe_is_never_gone_on_from",
        ],
    ),
    "two weights whose addresses end alike": (
        "the first for both",
        ["teacher/test_fetch.py::test_files_that_end_alike_do_not_share_a_place_in_the_cache"],
    ),
    "an option of a plug-in that is null": (
        "another value through local.py",
        ["run/test_folder.py::test_an_option_that_a_recipe_sets_to_null_stays_null_when_it_is_read_back"],
    ),
    "a plug-in that calls exit(0), in build or in a step": (
        "exit 0, nothing trained",
        [
            "ranks/test_exits.py::test_a_teacher_that_calls_exit_is_named_and_the_run_has_not_finished",
            "teacher/test_door.py::test_what_goes_wrong_inside_a_plug_in_names_it_and_the_line",
        ],
    ),
    "a mixture's weight above 256, a warm-up of one step": (
        "crops repeat, a step at rate 0",
        [
            "recipe/test_recipe.py::test_odd_values_are_refused_in_words",
            "recipe/test_plan.py::test_a_warm_up_of_one_step_moves_nothing_and_says_so",
        ],
    ),
    # lost work
    "the reader of stderr gone, then SIGTERM, USR2, INT": (
        "nothing saved",
        ["ranks/test_terminal.py::test_a_run_whose_reader_has_left_saves_when_it_is_asked_to_stop"],
    ),
    "a watchdog that cannot write": (
        "the rank lives on",
        ["ranks/test_watchdog.py::test_a_rank_that_cannot_write_its_stacks_is_ended_all_the_same"],
    ),
    "a fetch killed while hashing; two fetches at once": (
        "HTTP 416 for ever; 7 of 10 broken",
        [
            "teacher/test_fetch.py::test_a_fetch_that_was_killed_when_all_had_come_is_finished_by_the_next",
            "teacher/test_fetch.py::test_two_fetches_at_once_bring_one_whole_file",
        ],
    ),
    "two owners of a lock by injected delays; a lock from the future": (
        "two for 15 s; in use until the clock comes there",
        [
            "run/test_lock.py::test_whoever_lost_the_lock_leaves_before_two_runs_write",
            "run/test_lock.py::test_a_lock_that_another_newcomer_got_in_the_same_moment_is_not_held",
            "run/test_lock.py::test_of_many_newcomers_to_a_stale_lock_exactly_one_wins",
            "run/test_lock.py::test_a_lock_from_the_future_is_not_in_use_until_the_clock_comes_there",
        ],
    ),
    # security
    "a line break in the path of a batch script": (
        "ran as a command",
        [
            "launch/test_launch.py::test_a_line_break_in_the_run_folder_is_no_command",
            "launch/test_launch.py::test_a_folder_whose_name_would_run_in_the_batch_script_is_refused",
        ],
    ),
    "secrets by 13 names in recipes; passwords in addresses": (
        "8 of 13 taken, printed, kept",
        [
            "security/test_secrets.py::test_a_value_of_these_names_may_stand_in_no_recipe",
            "security/test_secrets.py::test_training_refuses_what_the_front_doors_refuse_and_writes_nothing",
            "security/test_secrets.py::test_an_address_is_shown_without_what_proves_a_login",
            "teacher/test_fetch.py::test_a_password_is_used_and_neither_printed_nor_kept",
        ],
    ),
    "ESC in folders' names and log lines": (
        "raw on the terminal and in the report",
        [
            "security/test_secrets.py::test_names_and_logs_that_a_terminal_would_obey_are_written_out",
            "ranks/test_terminal.py::test_what_a_terminal_would_obey_is_written_out",
        ],
    ),
    "PostScript named .jpg": (
        "Ghostscript starts",
        ["security/test_files.py::test_only_the_formats_of_pictures_are_opened"],
    ),
    "pickles with code in .pth, behind options of timm": (
        "held then too",
        [
            "interop/test_interop.py::test_nothing_in_a_foreign_file_is_executed",
            "security/test_strangers.py::test_a_pickle_behind_an_option_of_timm_runs_nothing",
        ],
    ),
    "image bombs, in training and evaluation": (
        "4.6 to 13 GB",
        [
            "security/test_files.py::test_a_picture_is_judged_by_its_header_before_it_is_decoded",
            "security/test_files.py::test_a_picture_is_converted_strip_by_strip_to_the_same_pixels",
            "evaluate/test_features.py::test_an_image_that_would_fill_gigabytes_is_refused_by_its_header",
            "evaluate/test_features.py::test_a_mask_of_too_many_pixels_is_refused_by_its_header",
        ],
    ),
    "a sparse label of 8 GB in a tar of 10 KB": (
        "8.7 GB",
        [
            "security/test_files.py::test_a_sparse_file_of_a_tar_is_neither_label_nor_image",
            "security/test_files.py::test_a_label_of_megabytes_is_none",
        ],
    ),
    # hangs and gigabytes
    "weights that claim a depth of 1e9, widths of 2^40, block 999,999,999": (
        "hangs, 4 to 7 GB",
        [
            "security/test_files.py::test_a_small_file_that_claims_a_large_student_is_refused_at_once",
            "security/test_files.py::test_an_official_file_that_names_a_block_of_nine_letters_is_refused_at_once",
            "fuzz:safetensors",
            "fuzz:official",
        ],
    ),
    "YAML of endless aliases, a FIFO, /dev/zero": (
        "hangs, 1.4 to 2.8 GB",
        [
            "security/test_files.py::test_a_recipe_of_endless_values_is_refused_at_once",
            "security/test_files.py::test_a_recipe_without_an_end_is_refused",
        ],
    ),
    "a folder with links to itself": (
        "a hang, images counted 41 times",
        ["security/test_files.py::test_a_link_that_leads_back_is_refused_at_once"],
    ),
    "a rank that never comes, an address that nobody answers": (
        "36 to 150 s, a traceback",
        ["ranks/test_meeting.py::test_a_rank_whose_peer_never_comes_says_where_it_waits_and_leaves_with_6"],
    ),
    # tracebacks, by door
    "answers of a teacher in any wrong shape, in any step": (
        "exit 1 with our stack",
        [
            "teacher/test_door.py::test_an_answer_that_is_not_its_spec_is_refused_with_the_usual_reason",
            "teacher/test_tokens.py::test_it_is_refused_before_the_run_folder_is_touched",
        ],
    ),
    "names that torch has, infinities, 1e300, nested and tagged YAML, 1e22 workers": (
        "49 tracebacks and 4 hangs of 795",
        [
            "recipe/test_recipe.py::test_odd_values_are_refused_in_words",
            "recipe/test_recipe.py::test_names_that_torch_has_already_are_those_of_torch",
            "fuzz:recipe",
            "fuzz:overrides",
        ],
    ),
    "depth: 0, in_chans: 4 and the like in student.options": (
        "tracebacks",
        ["commands/test_cli.py::test_check_refuses_what_train_would_refuse"],
    ),
    "launchers' numbers that are none, homes that nobody has": (
        "tracebacks",
        [
            "security/test_files.py::test_a_number_of_the_environment_that_is_none_is_named",
            "security/test_files.py::test_a_rank_that_is_no_number_is_a_message_and_exit_2",
            "security/test_files.py::test_a_home_that_nobody_has_is_named",
            "launch/test_launch.py::test_a_user_without_a_home_submits_all_the_same",
        ],
    ),
    "disks that fill up under metrics, packs, features, run.json": (
        "exit 1, SIGBUS, halves",
        [
            "run/test_metrics.py::test_a_full_disk_ends_the_run_in_words_and_its_checkpoint_is_intact",
            "run/test_folder.py::test_what_cannot_be_written_leaves_the_old_file_and_no_half_of_a_new_one",
            "data/test_pack.py::test_a_disk_that_fills_up_while_packing_is_said_and_nothing_half_stays",
            "evaluate/test_features.py::test_a_disk_that_is_full_is_an_error_before_the_first_image",
        ],
    ),
    "packing without shared memory": (
        "a traceback",
        ["data/test_pack.py::test_a_machine_without_shared_memory_is_said_before_anything_is_written"],
    ),
    "outputs that are folders, below files, in /proc": (
        "tracebacks, after measuring",
        [
            "evaluate/test_features.py::test_an_out_that_cannot_be_written_is_refused_before_the_model_is_opened",
            "evaluate/test_keeping.py::test_an_out_that_cannot_be_written_is_refused_before_measuring",
            "data/test_pack.py::test_a_target_that_cannot_be_written_is_refused_before_anything_is_read",
        ],
    ),
    "damaged run.json, metrics, results, locks": (
        "54 kinds of traceback; one hides all runs",
        [
            "run/test_sound.py::test_a_damaged_run_json_is_told_and_hides_nothing",
            "run/test_sound.py::test_a_line_of_metrics_that_makes_no_sense_costs_that_line",
            "run/test_sound.py::test_a_file_of_results_that_is_none_is_left_out_and_named",
            "run/test_sound.py::test_a_lock_that_is_none_names_nobody",
            "run/test_status.py::test_a_run_that_cannot_be_read_does_not_hide_the_others",
            "fuzz:run_facts",
            "fuzz:metrics",
            "fuzz:results",
        ],
    ),
    "names that are no UTF-8, labels that are no numbers": (
        "tracebacks",
        [
            "security/test_strangers.py::test_names_that_are_no_text_are_packed_and_told",
            "security/test_strangers.py::test_names_that_are_no_text_have_features",
            "security/test_strangers.py::test_a_label_that_is_no_number_is_a_name_or_refused_and_never_another_number",
        ],
    ),
    "checkpoints whose hashes are right and whose contents lie": (
        "hangs, tracebacks",
        [
            "checkpoint/test_checkpoint.py::test_a_checkpoint_whose_hashes_are_right_and_whose_contents_lie_is_refused",
            "checkpoint/test_checkpoint.py::test_statistics_of_another_width_are_refused_by_their_name",
            "fuzz:checkpoint",
        ],
    ),
    "lists and pickles of evaluation sets": (
        "22 and 931 GB asked for",
        [
            "evaluate/test_lists.py::test_a_damaged_list_is_named",
            "evaluate/test_lists.py::test_a_list_cannot_ask_for_more_memory_than_it_has",
        ],
    ),
    "adapters with `from __future__ import annotations`": (
        "a traceback",
        ["teacher/test_finding.py::test_an_adapter_may_leave_its_annotations_for_later"],
    ),
    "HF configs with a key missing, null or of another kind": (
        "half of 150 a traceback, a hang",
        ["teachers/test_hf.py::test_hostile_values_are_refused_or_left_to_their_default", "fuzz:hugging_face"],
    ),
}
OPEN = "GPUs, a real NFS, read-only remounts and a machine without loopback were not tried again"


def run(nodes: list[str]) -> dict[str, bool]:
    """node -> whether all of its cases passed; one that is not found did not."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "-m", ""]
        subprocess.run([*command, *[f"tests/{node}" for node in nodes]], cwd=REPOSITORY, check=False)
        cases = ET.parse(report).getroot().iter("testcase")
        heard: dict[str, list[bool]] = {}
        for case in cases:
            file = case.attrib["classname"].removeprefix("tests.").replace(".", "/") + ".py"
            node = f"{file}::{case.attrib['name'].partition('[')[0]}"
            heard.setdefault(node, []).append(
                not [part for part in case if part.tag in ("failure", "error", "skipped")]
            )
    return {node: all(heard.get(node, [False])) for node in nodes}


def fuzz(doors: list[str]) -> dict[str, bool]:
    """`fuzz:DOOR` -> whether 40 inputs of one seed were all read or refused."""
    found = {}
    for door in doors:
        command = [sys.executable, "-m", "tests.fuzz", "--door", door, "--batches", "2"]
        found[f"fuzz:{door}"] = subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0
    return found


def main() -> None:
    """Run what was asked for, and keep what came of it beside what is known of the rest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="Lines that hold this word.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    chosen = {line: said for line, said in LINES.items() if asked.only in line}
    nodes = list(dict.fromkeys(node for _, held in chosen.values() for node in held))
    outcome = run([node for node in nodes if not node.startswith("fuzz:")])
    outcome |= fuzz([node.removeprefix("fuzz:") for node in nodes if node.startswith("fuzz:")])
    known = json.loads(asked.out.read_text())["lines"] if asked.out.exists() else {}
    lines = {line: known[line] for line in LINES if line in known}
    for line, (then, held) in chosen.items():
        lines[line] = {"0.1.0": then, "holds": all(outcome[node] for node in held), "tests": held}
    lines = {line: lines[line] for line in LINES if line in lines}
    page = {"machine": MACHINE, "lines": lines, "hold": sum(one["holds"] for one in lines.values()), "open": OPEN}
    asked.out.write_text(json.dumps(page, indent=1) + "\n")
    for line, one in lines.items():
        print(f"{'holds' if one['holds'] else 'FAILS'}  {line}")


if __name__ == "__main__":
    main()
