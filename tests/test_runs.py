import json

import pytest

from bit_keras.runs import RunFolder, RunFolderError


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.claim({"rule": {"steps": 5}, "seed": 0}, resume=False, overwrite=False):
        pass
    folder.checkpoints.mkdir()
    return folder


def test_claim_writes_the_settings(run):
    assert run.read_config() == {"rule": {"steps": 5}, "seed": 0}


def test_a_folder_with_a_run_is_refused_without_a_flag(run):
    with pytest.raises(RunFolderError, match=r"--resume.*--overwrite"):
        with run.claim(run.read_config(), resume=False, overwrite=False):
            pass


def test_resume_accepts_the_same_settings(run):
    run.metrics.write_text('{"step": 1}\n')
    with run.claim({"rule": {"steps": 5}, "seed": 0}, resume=True, overwrite=False):
        pass
    assert run.metrics.is_file()


def test_resume_names_each_changed_setting(run):
    with pytest.raises(RunFolderError, match=r"rule\.steps: 5 then, 6 now; seed: 0 then, 1 now"):
        with run.claim({"rule": {"steps": 6}, "seed": 1}, resume=True, overwrite=False):
            pass


def test_folders_of_others_are_never_touched(tmp_path):
    (tmp_path / ".notes.abcdefgh.partial").mkdir()
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(RunFolderError, match="not a run folder"):
        with RunFolder(tmp_path).claim({}, resume=False, overwrite=True):
            pass
    assert (tmp_path / ".notes.abcdefgh.partial").is_dir()


def test_two_runs_at_once_in_one_folder_are_refused(tmp_path):
    with RunFolder(tmp_path / "run").claim({"seed": 0}, resume=False, overwrite=False):
        for flags in ({"resume": True}, {"overwrite": True}, {}):
            flags = {"resume": False, "overwrite": False, **flags}
            with pytest.raises(RunFolderError, match="Another process"):
                with RunFolder(tmp_path / "run").claim({"seed": 1}, **flags):
                    pass
    assert RunFolder(tmp_path / "run").read_config() == {"seed": 0}


def test_a_run_that_failed_before_its_first_step_is_no_obstacle(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.claim({"seed": 0}, resume=False, overwrite=False):
        pass
    with folder.claim({"seed": 1}, resume=False, overwrite=False):
        pass
    assert folder.read_config() == {"seed": 1}


def test_resume_of_nothing_starts_a_run(tmp_path):
    folder = RunFolder(tmp_path / "new")
    with folder.claim({"seed": 0}, resume=True, overwrite=False):
        pass
    assert folder.read_config() == {"seed": 0}


def test_overwrite_deletes_the_old_run(run):
    run.metrics.write_text('{"step": 1}\n')
    with run.claim({"seed": 1}, resume=False, overwrite=True):
        pass
    assert run.read_config() == {"seed": 1}
    assert not run.metrics.exists()


def test_a_folder_of_other_things_is_never_deleted(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match="not a run folder"):
        with RunFolder(tmp_path).claim({}, resume=False, overwrite=True):
            pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
    leftover = tmp_path / "run" / ".config.json.x1y2z3w4.partial"
    leftover.mkdir(parents=True)
    (leftover / "config.json").write_text("{")
    (tmp_path / "run" / ".lock").touch()
    with RunFolder(tmp_path / "run").claim({"seed": 0}, resume=False, overwrite=False):
        pass
    assert not leftover.exists()


def test_a_missing_or_damaged_config_is_told(tmp_path):
    with pytest.raises(RunFolderError, match=r"no config\.json"):
        RunFolder(tmp_path).read_config()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunFolderError, match="damaged"):
        RunFolder(tmp_path).read_config()


def test_metrics_survive_a_line_cut_short_by_a_kill(run):
    run.append_metrics([{"step": 1}, {"step": 2}])
    with run.metrics.open("a") as stream:
        stream.write('{"step": 3, "lo')
    assert [record["step"] for record in run.read_metrics()] == [1, 2]


def test_rewind_drops_the_records_that_come_again(run):
    run.append_metrics({"step": step} for step in range(1, 6))
    run.rewind_metrics(3)
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2}, {"step": 3}]
