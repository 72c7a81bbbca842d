# shellcheck shell=bash
# Helpers that the scripts share. Source this file; it does nothing by itself.

# Tools such as mkfs.ext4 live in the sbin folders, which a user's PATH may lack.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$@"; }
die() {
    say "error: $*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Only there is anything installed: names and versions of packages are those of Debian 12 on amd64.
on_debian_12() {
    [[ -r /etc/os-release ]] &&
        (. /etc/os-release && [[ ${ID:-} == debian && ${VERSION_ID:-} == 12 ]]) &&
        [[ $(dpkg --print-architecture) == amd64 ]]
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif have sudo; then
        sudo -n "$@"
    else
        die "needs root: $*"
    fi
}

# Never asks, removes no package to make room for another, waits for an apt that runs already.
apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-remove -o Acquire::Retries=3 \
        -o DPkg::Lock::Timeout=300 "$@" </dev/null >/dev/null
}

# A list that cannot be had (a mirror in the middle of a change) need not matter: what follows tells.
apt_update() { apt_get update || say "warning: not all package lists are up to date"; }

# apt_install NAME[=VERSION]...: installs those that are not there yet.
apt_install() {
    local package missing=()
    for package; do
        dpkg-query -W -f '${db:Status-Status} ${Package}\n${db:Status-Status} ${Package}=${Version}\n' \
            "${package%%=*}" 2>/dev/null | grep -xF "installed $package" >/dev/null || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    apt_update
    apt_get install --no-install-recommends "${missing[@]}" || die "could not install ${missing[*]}"
}

# apt_download FOLDER [OPTION ...] PACKAGE...: fetches packages as files and installs nothing.
apt_download() {
    mkdir -p "$1"
    (cd "$1" && apt-get -qq -o Acquire::Retries=3 -o APT::Sandbox::User="$(id -un)" download "${@:2}" </dev/null)
}

# What a guest needs that is not installed is unpacked below this folder: no root is needed, and no package stands in the
# way of another (a newer qemu-utils conflicts with Debian 12's QEMU).
guest_folder=$PWD/target/guest

# guest_kernel: prints the path of the kernel image, or nothing.
guest_kernel() { compgen -G "$guest_folder/kernel/boot/vmlinuz-*" || true; }

# get_kernel: unpacks a kernel image, and the modules that a virtio disk needs; as its package has them, boot/ and lib/.
# Installing it would set this machine up to boot it.
get_kernel() {
    local package folder=$guest_folder/kernel
    [[ -z $(guest_kernel) ]] || return 0
    refresh_lists
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2 }')
    [[ -n $package ]] || die "apt knows no linux-image-cloud-amd64"
    rm -rf "$folder"
    apt_download "$folder.new" "$package"
    dpkg-deb --fsys-tarfile "$folder.new/$package"_*.deb | tar -x -C "$folder.new" --wildcards \
        ./boot './lib/modules/*/kernel/drivers/virtio' './lib/modules/*/kernel/drivers/block/virtio_blk.ko'
    rm "$folder.new/$package"_*.deb
    mv "$folder.new" "$folder" # last: now it is whole
}

# get_guest_tools: what of QEMU, busybox and the tools for ext4 is not in PATH is unpacked. Afterwards `guest_path` is
# what has to stand before PATH: programs that find their libraries and their firmware there.
# With GUEST_TOOLS=unpack they are unpacked also if they are in PATH, to try that; as long as apt does not know them installed.
guest_path=$guest_folder/bin
get_guest_tools() {
    local program packages=()
    for program in qemu-system-x86_64 busybox mkfs.ext4; do
        [[ ! -x $guest_path/$program ]] || continue
        [[ ${GUEST_TOOLS:-} == unpack ]] || ! usable "$program" || continue
        case $program in
        qemu-system-x86_64) packages+=(qemu-system-x86 seabios) ;;
        busybox) packages+=(busybox-static) ;;
        mkfs.ext4) packages+=(e2fsprogs) ;;
        esac
    done
    ((!${#packages[@]})) || unpack_tools "${packages[@]}"
}

# usable PROGRAM: whether it is in PATH, and if it is to run in the guest, needs nothing else there.
usable() { have "$1" && { [[ $1 != busybox ]] || ! head -c 4096 "$(type -P busybox)" | grep -a ld-linux >/dev/null; }; }

# unpack_tools PACKAGE...: unpacks packages and what they depend on, and writes programs that run them.
unpack_tools() {
    local root=$guest_folder/root plan names program
    refresh_lists
    # Only simulated: says which packages are not there yet.
    if ! plan=$(apt-get -s --no-install-recommends install "$@" qemu-utils- </dev/null); then
        say "apt cannot give $*"
        return
    fi
    mapfile -t names < <(awk '/^Inst / { print $2 }' <<<"$plan")
    ((${#names[@]})) || return 0
    say "unpacking ${names[*]}"
    rm -rf "$guest_folder/debs"
    if ! apt_download "$guest_folder/debs" "${names[@]}"; then
        say "apt cannot give ${names[*]}"
        return
    fi
    for program in "$guest_folder"/debs/*.deb; do dpkg-deb -x "$program" "$root"; done
    rm -rf "$guest_folder/debs"
    mkdir -p "$guest_path"
    for program in "$root"/{bin,sbin,usr/bin,usr/sbin}/{qemu-system-x86_64,qemu-storage-daemon,busybox,mkfs.ext4,e2fsck,debugfs}; do
        [[ ! -x $program ]] || wrap "$program" "$root"
    done
}

# wrap PROGRAM ROOT: writes a program that runs another from where it was unpacked.
wrap() {
    local options=''
    if [[ $1 == */busybox ]]; then
        ln -sf "$1" "$guest_path/" # is static, and goes into the guest
        return
    fi
    [[ $1 != */qemu-system-* ]] || options="-L '$2/usr/share/qemu' -L '$2/usr/share/seabios'"
    cat >"$guest_path/${1##*/}" <<EOF
#!/bin/sh
LD_LIBRARY_PATH='$2/usr/lib/x86_64-linux-gnu:$2/lib/x86_64-linux-gnu' exec '$1' $options "\$@"
EOF
    chmod +x "$guest_path/${1##*/}"
}

# Where nobody can be root, the lists have to do as they are.
refresh_lists() { ((EUID != 0)) && ! have sudo || apt_update; }
