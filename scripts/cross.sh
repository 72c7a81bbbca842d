#!/usr/bin/env bash
# Runs the library's tests on other processors, built by the oldest Rust that the library supports.
#
#   scripts/cross.sh [--short] [TARGET ...]   i686 armv7 s390x aarch64 (default: these four), and host
#
# With --short only the tests whose result depends on the processor are built and run: to build takes most of the time.
# i686 runs natively, the other three under qemu's user mode emulation; `host` only checks that the
# library builds. Tests in the documentation are left out: they would need a rustdoc to match.
# On Debian 12 (amd64) what is missing is installed, since its archive has both this compiler and its
# standard library for these targets; elsewhere the script says what it lacks.
#
# Settings: PROPTEST_CASES (under qemu 64 if unset), CROSS_RUSTC (another compiler of that version).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

msrv=1.85
debian_version=1.85.0+dfsg3-1~deb12u3 # of rustc-web; pinned because the archive has newer ones too
rustc=${CROSS_RUSTC:-/usr/bin/rustc}
rustlib=/usr/lib/rustlib # where Debian's rustc looks for standard libraries

# Sets what differs between targets: triple, debian_arch, linker, packages, runner.
describe() {
    local gnu
    case $1 in
    host | i686) gnu='' ;;
    armv7) triple=armv7-unknown-linux-gnueabihf debian_arch=armhf gnu=arm-linux-gnueabihf ;;
    s390x) triple=s390x-unknown-linux-gnu debian_arch=s390x gnu=s390x-linux-gnu ;;
    aarch64) triple=aarch64-unknown-linux-gnu debian_arch=arm64 gnu=aarch64-linux-gnu ;;
    *) die "unknown target '$1'; there are: host i686 armv7 s390x aarch64" ;;
    esac
    case $1 in
    host) # named, so that what is compiled for the build itself is shared with the other targets
        triple=x86_64-unknown-linux-gnu debian_arch='' linker=gcc runner='' packages=()
        ;;
    i686) # not gcc-multilib, which conflicts with the cross compilers
        triple=i686-unknown-linux-gnu debian_arch=i386 linker=gcc runner=''
        packages=(libc6-dev-i386 lib32gcc-12-dev)
        ;;
    *)
        linker=$gnu-gcc runner="qemu-${gnu%%-*}-static -L /usr/$gnu"
        packages=(qemu-user-static "gcc-$gnu" "libc6-dev-$debian_arch-cross")
        ;;
    esac
}

# Installs what the targets need, in one go.
install_needed() {
    local name all=(gcc libc6-dev)
    for name in rustc-web libstd-rust-web-dev libstd-rust-web-1.85; do
        all+=("$name=$debian_version")
    done
    for name; do
        describe "$name"
        all+=("${packages[@]}")
    done
    apt_install "${all[@]}"
    unpack_std "$@"
}

# Puts the standard libraries of foreign targets beside the host's. Their packages cannot be installed
# (dependencies), but unpacked. apt gets state of its own for this, so that the system keeps its
# architectures and lists, and `apt-get` goes on working as before.
unpack_std() {
    local name options tmp=$PWD/target/cross/apt architectures=amd64 wanted=() debs=()
    for name; do
        describe "$name"
        [[ -n $debian_arch ]] || continue # the host's comes from its package
        [[ $(cat "$rustlib/$triple/debian-version" 2>/dev/null) != "$debian_version" ]] || continue
        wanted+=("$name")
        debs+=("libstd-rust-web-dev:$debian_arch=$debian_version")
        architectures+=,$debian_arch
    done
    ((${#wanted[@]})) || return 0

    say "unpacking the standard library for ${wanted[*]}"
    rm -rf "$tmp"
    mkdir -p "$tmp"/{lists,cache/archives}/partial
    options=(-o "APT::Architectures=$architectures" -o "Dir::State::lists=$tmp/lists" -o "Dir::Cache=$tmp/cache"
        -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User="$(id -un)")
    # Complaints about lists (foreign ones are often incomplete) matter only if the download fails.
    apt-get -qq "${options[@]}" update </dev/null >"$tmp/update.log" 2>&1 || true
    if ! apt_download "$tmp" "${options[@]}" "${debs[@]}"; then
        cat "$tmp/update.log" >&2
        die "could not download ${debs[*]}"
    fi
    for name in "${wanted[@]}"; do
        describe "$name"
        dpkg -x "$tmp"/libstd-rust-web-dev_*_"$debian_arch.deb" "$tmp/$name"
        as_root rm -rf "$rustlib/$triple"
        as_root cp -r "$tmp/$name$rustlib/$triple" "$rustlib/"
        say "$debian_version" | as_root tee "$rustlib/$triple/debian-version" >/dev/null # last: now it is whole
    done
    rm -rf "$tmp"
}

# Prints what the described target still lacks.
lacking() {
    local link=("$linker")
    [[ $1 != i686 ]] || link+=(-m32)
    [[ $("$rustc" --version 2>/dev/null) == "rustc $msrv."* ]] || say "  Rust $msrv as $rustc"
    compgen -G "$("$rustc" --print target-libdir --target "$triple" 2>/dev/null)/libstd-*.rlib" >/dev/null ||
        say "  its standard library for $triple"
    "${link[@]}" -x c -o /dev/null - 2>/dev/null <<<'int main(void) { return 0; }' ||
        say "  a linker and a C library for it (${link[*]})"
    [[ -z $runner ]] || have "${runner%% *}" || say "  ${runner%% *}"
}

run() {
    local missing variable
    describe "$1"
    missing=$(lacking "$1")
    if [[ -n $missing ]]; then
        say "error: these are missing for $1:" "$missing"
        return 1
    fi
    if [[ $1 == host ]]; then
        cargo check -p memory-model --all-features --target "$triple"
        return
    fi
    variable=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$triple")
    local -x "${variable}_LINKER=$linker"
    if [[ -n $runner ]]; then
        # CROSS_RUNNER is for tests that run themselves once more, as a child process.
        local -x "${variable}_RUNNER=$runner" CROSS_RUNNER=$runner
        # Emulation is slow, and unoptimised code under it much more so. Debug assertions stay on.
        local -x PROPTEST_CASES="${PROPTEST_CASES:-64}" CARGO_PROFILE_DEV_OPT_LEVEL=1
    fi
    cargo test -p memory-model --lib "${tests[@]}" --no-fail-fast --target "$triple"
}

tests=(--tests)
if [[ ${1:-} == --short ]]; then
    shift
    tests=()
    for name in dirty edges faults manners model streams tearing vocabulary; do tests+=(--test "$name"); done
fi
(($#)) || set -- i686 armv7 s390x aarch64
for name; do describe "$name"; done # stops at a name that is not known
have cargo || die "missing: cargo"
! on_debian_12 || install_needed "$@"

unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS # meant for the host's compiler and processor
export RUSTC=$rustc CARGO_TARGET_DIR=$PWD/target/cross CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0
summary=() status=0
for name; do
    say "== $name"
    start=$SECONDS
    if run "$name"; then result=ok; else result=FAILED status=1; fi
    summary+=("$(printf '%-8s %-6s %4d s' "$name" "$result" $((SECONDS - start)))")
done
say "== with $("$rustc" --version 2>/dev/null || say 'no compiler')"
printf '%s\n' "${summary[@]}"
exit "$status"
