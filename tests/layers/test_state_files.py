"""A save leaves the old file or the new one, whole, whatever fails, interrupts it or ends the process."""

from __future__ import annotations

import errno
import io
import itertools
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import normdrop
from normdrop import _state_files

from ..saved_layers import SUFFIXES, batch_norm, same

pytestmark = pytest.mark.same

POSIX = pytest.mark.skipif(os.name != "posix", reason="as POSIX has it")


@pytest.fixture(params=SUFFIXES)
def saved(request, tmp_path):
    """A file with the state of `old`, alone in its folder, and a layer that goes there next."""
    s = SimpleNamespace(old=batch_norm(1), new=batch_norm(50), path=tmp_path / f"layer{request.param}")
    s.old.save(s.path)
    s.content = s.path.read_bytes()
    return s


class Interrupt:
    """Raise at this line of the module, counted as they are run."""

    def __init__(self, line):
        self.left = line

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.endswith("_state_files.py"):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def untouched(saved):
    return saved.path.read_bytes() == saved.content and os.listdir(saved.path.parent) == [saved.path.name]


class Half(io.FileIO):
    """A file that takes half of what is written, and then does something else."""

    def __init__(self, path, mode, then):
        super().__init__(path, mode)
        self.then = then

    def write(self, content):
        super().write(content[: len(content) // 2])
        self.then()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), MemoryError()], ids=repr
)
@pytest.mark.parametrize("where", ["open", "write", "chmod", "fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_beside_it(saved, monkeypatch, where, error):
    def fail(*args):
        raise error

    if where == "write":
        monkeypatch.setattr(_state_files, "open", lambda *args: Half(*args, then=fail), raising=False)
    elif where == "open":
        monkeypatch.setattr(_state_files, "open", fail, raising=False)
    else:
        monkeypatch.setattr(os, where, fail)
    with pytest.raises(type(error)) as caught:
        saved.new.save(saved.path)
    monkeypatch.undo()
    assert untouched(saved)
    if isinstance(error, OSError):
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(saved.path))


@pytest.mark.filterwarnings("ignore:unclosed file")  # the tracer can raise where Python does not, as a block ends
def test_a_save_interrupted_at_any_line_has_happened_whole_or_not_at_all(saved):
    for line in itertools.count(1):
        trace = Interrupt(line)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            saved.new.save(saved.path)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        assert os.listdir(saved.path.parent) == [saved.path.name], line
        content = saved.path.read_bytes()
        twin = normdrop.BatchNorm(3)
        twin.load(saved.path)
        assert same(twin, saved.old if content == saved.content else saved.new), line
        if trace.left > 0:
            break
        saved.path.write_bytes(saved.content)
    assert line > 20


def test_a_state_that_cannot_be_taken_leaves_the_old_file(saved, monkeypatch):
    monkeypatch.setattr(normdrop.BatchNorm, "state_dict", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        saved.new.save(saved.path)
    assert untouched(saved)


def run_and_end(code, *args):
    """Run code in a process of its own and return its exit status."""
    code = """
    import os, signal, sys
    import normdrop
    from normdrop import _state_files

    layer = normdrop.BatchNorm(3)
    def kill(*args):
        os.kill(os.getpid(), signal.SIGKILL)
    """ + textwrap.indent(textwrap.dedent(code), "    ")
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code), *args], check=False).returncode


@POSIX
@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_process_killed_in_the_midst_of_a_save_leaves_the_old_file(saved, where):
    code = """
    if sys.argv[2] == "write":
        class File:
            def __init__(self, *args): self.file = open(*args)
            def __enter__(self): return self
            def __exit__(self, *error): pass
            def write(self, content): self.file.write(content[:100]), self.file.flush(), kill()
        _state_files.open = File
    else:
        setattr(os, sys.argv[2], kill)
    layer.save(sys.argv[1])
    """
    assert run_and_end(code, str(saved.path), where) == -signal.SIGKILL
    assert saved.path.read_bytes() == saved.content
    saved.new.save(saved.path)
    saved.old.load(saved.path)
    assert same(saved.old, saved.new)


@POSIX
def test_a_process_killed_at_any_time_leaves_a_whole_file(tmp_path):
    path = tmp_path / "layer.npz"
    code = """
    import sys, numpy as np, normdrop
    layer = normdrop.BatchNorm(100_000)
    for count in range(10**9):
        layer.load_state_dict({k: np.full_like(v, count) for k, v in layer.state_dict().items()})
        layer.save(sys.argv[1])
        if count == 2:
            print(flush=True)
    """
    twin = normdrop.BatchNorm(100_000)
    for milliseconds in (0, 3, 7, 12, 20):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(path)], stdout=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            threading.Event().wait(milliseconds / 1000)
            process.kill()
        twin.load(path)
        assert twin.num_batches >= 2
        assert all(np.all(values == twin.num_batches) for values in twin.state_dict().values())


@POSIX
def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_beside_it(saved):
    code = """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    try:
        layer.save(sys.argv[1])
    except OSError as error:
        assert sys.argv[1] in str(error)
        sys.exit(7)
    """
    assert run_and_end(code, str(saved.path)) == 7
    assert untouched(saved)


@pytest.fixture
def full(tmp_path):
    """A device that is full; for root one beside the system's, which a mistake would replace by a file."""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    if os.geteuid():
        return "/dev/full"
    path = str(tmp_path / "full")
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.stat("/dev/full").st_rdev)
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        pytest.skip("no device can be made here")
    return path


def test_a_full_device_is_an_error_and_stays_a_device(full):
    with pytest.raises(OSError, match=full) as caught:
        batch_norm(1).save(full)
    assert caught.value.errno == errno.ENOSPC
    assert stat.S_ISCHR(os.stat(full).st_mode)


@POSIX
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    path, got = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()
    batch_norm(1).save(path)
    reader.join(60)
    assert stat.S_ISFIFO(os.stat(path).st_mode)
    path.unlink()
    path.write_bytes(got[0])
    layer = normdrop.BatchNorm(3)
    layer.load(path)
    assert same(layer, batch_norm(1))


@POSIX
def test_what_is_written_is_on_the_disk_before_it_takes_the_place_of_the_old_file(saved, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replaced"), replace(*names)))
    saved.new.save(saved.path)
    assert done == [len(saved.path.read_bytes()), "replaced", "folder"]


@pytest.mark.parametrize("where", ["open", "fsync"])
def test_a_system_that_cannot_sync_a_folder_saves_all_the_same(saved, monkeypatch, where):
    before = getattr(os, where)

    def fail(what, *args):
        if where == "open" or stat.S_ISDIR(os.fstat(what).st_mode):
            raise PermissionError(errno.EACCES, "not a folder")
        return before(what, *args)

    monkeypatch.setattr(os, where, fail)
    saved.new.save(saved.path)
    monkeypatch.undo()
    saved.old.load(saved.path)
    assert same(saved.old, saved.new)


@POSIX
def test_a_link_stays_a_link_and_what_it_names_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "link.npz", tmp_path / "there" / "layer.npz"
    link.symlink_to(Path("there") / "layer.npz")
    for first in (1, 50):  # a link to nothing, and to a file
        batch_norm(first).save(link)
        assert link.is_symlink()
        layer = normdrop.BatchNorm(3)
        layer.load(target)
        assert same(layer, batch_norm(first))
    assert sorted(os.listdir(tmp_path)) == ["link.npz", "there"]
    assert os.listdir(tmp_path / "there") == ["layer.npz"]
    loop = tmp_path / "loop.npz"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match=r"loop\.npz"):
        batch_norm(1).save(loop)
    assert loop.is_symlink()


@POSIX
def test_a_new_file_gets_the_mode_of_any_new_file_and_an_old_one_keeps_its_own(saved):
    other = saved.path.parent / "other"
    other.write_bytes(b"")
    assert saved.path.stat().st_mode == other.stat().st_mode
    for mode in (0o600, 0o664, 0o640):
        saved.path.chmod(mode)
        saved.new.save(saved.path)
        assert stat.S_IMODE(saved.path.stat().st_mode) == mode


@POSIX
def test_an_old_file_keeps_its_owner_where_that_can_be(saved, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "chown", lambda path, *owner: asked.append(owner))
    saved.new.save(saved.path)
    assert asked == [(saved.path.stat().st_uid, saved.path.stat().st_gid)]


def test_a_file_that_may_not_be_written_is_refused(saved, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, kind: kind != os.W_OK)  # of the root user's files, all may
    with pytest.raises(PermissionError, match="layer"):
        saved.new.save(saved.path)
    assert untouched(saved)


def test_a_path_may_be_a_name_a_path_or_bytes_and_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("layer", b"layer.npz", Path("x.state"), "a.safetensors", b"b.SafeTensors", "n" * 255):
        batch_norm(1).save(path)
        assert os.path.exists(path)
        layer = normdrop.BatchNorm(3)
        layer.load(path)
        assert same(layer, batch_norm(1))
    names = ["layer", "layer.npz", "x.state", "a.safetensors", "b.SafeTensors", "n" * 255]
    assert sorted(os.listdir()) == sorted(names)
    starts = [Path(name).read_bytes()[:2] for name in names]
    assert [start == b"PK" for start in starts] == [True, True, True, False, False, True]
    for path, error in (
        ("", FileNotFoundError),
        ("no/x.npz", FileNotFoundError),
        (".", OSError),
        (3, TypeError),
    ):
        with pytest.raises(error):
            batch_norm(1).save(path)
    assert sorted(os.listdir()) == sorted(names)
