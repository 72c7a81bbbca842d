#!/usr/bin/env bash
# A real guest uses the disk of devices/vhost-user-blk: QEMU, a Linux kernel, an ext4 file system.
#
#   scripts/qemu.sh [TEST ...]   the tests whose names contain one of these (default: all); ends with PASS
#   scripts/qemu.sh --cost       the daemon's CPU time per request, beside that of QEMU's own storage daemon
#
# Needs Rust and a C linker. What else is missing (QEMU, a kernel, busybox, e2fsprogs) is unpacked below target/ on Debian 12
# and not installed; elsewhere qemu-system-x86_64, busybox, mkfs.ext4 and a kernel in /boot or as MEMORY_MODEL_KERNEL have to
# be there: else the script says so, and ends with status 77. No KVM is needed, and none is used.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

have cargo || die "missing: cargo"
if on_debian_12; then
    [[ -n ${MEMORY_MODEL_KERNEL:-} ]] || get_kernel
    get_guest_tools
fi
PATH=$guest_path:$PATH
if [[ -z ${MEMORY_MODEL_KERNEL:-} && -n $(guest_kernel) ]]; then
    MEMORY_MODEL_KERNEL=$(guest_kernel)
    export MEMORY_MODEL_KERNEL
fi
for program in qemu-system-x86_64 busybox mkfs.ext4; do
    if ! usable "$program"; then
        say "skipped: there is no $program (busybox has to be static), and apt cannot give it"
        exit 77
    fi
done
say "QEMU: $(type -P qemu-system-x86_64), $(qemu-system-x86_64 --version | head -n 1)"
say "kernel: ${MEMORY_MODEL_KERNEL:-one of /boot}"

export MEMORY_MODEL_QEMU=require # nothing is skipped from here on
if [[ ${1:-} == --cost ]]; then
    exec cargo bench -p memory-model-vhost-user-blk --bench cost
fi
cargo test -p memory-model-vhost-user-blk --test qemu -- "$@"
say PASS
