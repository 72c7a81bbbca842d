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
