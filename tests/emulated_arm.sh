#!/usr/bin/env bash
# An aarch64 Python with NumPy, Numba and pytest that an emulator (QEMU) runs on this machine.
#
#   tests/emulated_arm.sh DIR
#
# makes it in the folder DIR and prints the path of the command that runs it, DIR/python; where it is already there, only
# that. About a minute and 1 GB. Needs Debian's apt-get and dpkg-deb, Python with pip, and the network, but no root:
# Debian's packages are unpacked into DIR, and this machine's lists of packages stay as they are.
set -euo pipefail

fail() {
  printf 'emulated_arm.sh: %s\n' "$1" >&2
  exit 1
}

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/pyproject.toml
[ $# -eq 1 ] || fail "give one folder, in which the emulated Python is made: emulated_arm.sh DIR"
for command in apt-get dpkg dpkg-deb python3; do
  command -v "$command" >/dev/null || fail "$command is missing; this needs Debian or a system made from it, and Python"
done
python3 -m pip --version >/dev/null 2>&1 || fail "python3 -m pip does not run; install pip, or use an environment with it"
mkdir -p "$1" || fail "the folder $1 cannot be made"
dir=$(cd "$1" && pwd)
log=$dir/log
if [ -e "$dir/done" ] && "$dir/python" -c 'import numba' 2>>"$log"; then
  echo "$dir/python"
  exit 0
fi
[ -z "$(ls -A "$dir")" ] || [ -e "$log" ] || fail "the folder $dir holds something else; give a new or an empty one"
rm -rf "$dir"/{apt,root,qemu,site,python,done}
trap '[ $? -eq 0 ] || echo "emulated_arm.sh: stopped; what was printed is in $log" >&2' EXIT

debian() { # architecture, folder, package...: unpack the newest versions of packages, and of all that they need
  local architecture=$1 target=$2 state=$dir/apt/$1
  shift 2
  mkdir -p "$state"/{lists,cache}/partial "$target"
  touch "$state/status"
  local apt=(apt-get -q -y -o APT::Architecture="$architecture" -o APT::Architectures="$architecture"
    -o Dir::State="$state" -o Dir::State::Lists="$state/lists" -o Dir::State::status="$state/status"
    -o Dir::Cache="$state/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=)
  "${apt[@]}" update >>"$log" 2>&1
  "${apt[@]}" install --download-only --no-install-recommends "$@" >>"$log" 2>&1
  for package in "$state"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$target" # without its scripts: nothing of it is run but by the emulator
  done
}

: >"$log"
debian arm64 "$dir/root" python3 libstdc++6 libgomp1
if ! qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64); then
  debian "$(dpkg --print-architecture)" "$dir/qemu" qemu-user-static
  qemu=$dir/qemu/usr/bin/qemu-aarch64-static
fi
python=$(readlink "$dir/root/usr/bin/python3")

# What normdrop needs, as its project file says, and what its tests do.
mapfile -t needed < <(python3 - "$project" <<'PYTHON'
import ast, re, sys
print(*ast.literal_eval(re.search(r"^dependencies = (.*)$", open(sys.argv[1]).read(), re.M)[1]), sep="\n")
PYTHON
)
platforms=()
for glibc in $(seq 17 "$(ls "$dir/apt/arm64/cache/archives" | sed -n 's/^libc6_2\.\([0-9]*\).*/\1/p')"); do
  platforms+=(--platform "manylinux_2_${glibc}_aarch64")
done
python3 -m pip install -q --target "$dir/site" "${platforms[@]}" --platform manylinux2014_aarch64 \
  --python-version "${python#python}" --only-binary=:all: \
  "${needed[@]}" pytest hypothesis mpmath ml_dtypes safetensors >>"$log" 2>&1

# What starts sys.executable anew starts the emulator, too.
cat >"$dir/site/sitecustomize.py" <<PYTHON
import sys

sys.executable = """$dir/python"""
PYTHON
cat >"$dir/python" <<BASH
#!/usr/bin/env bash
export PYTHONPATH=$(printf %q "$dir/site")\${PYTHONPATH:+:\$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1
export NUMBA_CACHE_DIR=\${NUMBA_CACHE_DIR:-$(printf %q "$dir/kernels")}
exec $(printf '%q -L %q %q' "$qemu" "$dir/root" "$dir/root/usr/bin/$python") "\$@"
BASH
chmod +x "$dir/python"
"$dir/python" -c 'import numba, platform; assert platform.machine() == "aarch64", platform.machine()' >>"$log" 2>&1
rm -rf "$dir/apt"
touch "$dir/done"
echo "$dir/python"
