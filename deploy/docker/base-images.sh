#!/usr/bin/env bash
# Makes a stand-in for the base image where no image registry can be reached: a minimal Debian system from the package
# mirror that this (Debian) machine is set up to use, imported under the name that the Dockerfile asks for. An image
# that is already there is left alone, so a pulled one wins.
#
# Needs root (debootstrap makes a chroot) and a Docker engine. Usage: deploy/docker/base-images.sh
set -euo pipefail

readonly suite=bookworm
readonly image=debian:bookworm-slim

say() { printf 'base-images: %s\n' "$*"; }
fail() {
    printf 'base-images: %s\n' "$*" >&2
    exit 1
}

# The mirror of the suite itself, not of its updates: from deb822 stanzas, else from one-line entries.
mirror() {
    local file found
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] || continue
        found=$(awk -v suite="$suite" '
            function flush() { if (suites ~ "(^| )" suite "( |$)" && uri != "") { print uri; exit } suites = ""; uri = "" }
            /^[[:space:]]*$/ { flush(); next }
            /^URIs:/ { uri = $2 }
            /^Suites:/ { sub(/^Suites:[[:space:]]*/, ""); suites = $0 }
            END { flush() }' "$file" | head -n 1)
        if [ -n "$found" ]; then
            printf '%s\n' "$found"
            return
        fi
    done
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -e "$file" ] || continue
        found=$(sed -nE "s/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+)[[:space:]]+${suite}[[:space:]].*/\2/p" "$file" | head -n 1)
        if [ -n "$found" ]; then
            printf '%s\n' "$found"
            return
        fi
    done
}

docker version >/dev/null 2>&1 || fail "no Docker engine answers"
if docker image inspect "$image" >/dev/null 2>&1; then
    say "$image is there already"
    exit 0
fi
[ "$(id -u)" -eq 0 ] || fail "run this as root: debootstrap makes a chroot"
if ! command -v debootstrap >/dev/null 2>&1; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends debootstrap
fi
source_uri=$(mirror)
[ -n "$source_uri" ] || fail "no mirror of $suite in /etc/apt/sources.list*; pull $image instead"

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root

say "installing a minimal $suite"
debootstrap --variant=minbase "$suite" "$root" "$source_uri" >"$work/log" 2>&1 || {
    tail -n 20 "$work/log" "$root/debootstrap/debootstrap.log" 2>/dev/null >&2 || true
    fail "debootstrap failed"
}

# What a slim image leaves out: caches, logs, documentation, translations. The mirror is this machine's own business.
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/tmp/* \
    "$root"/usr/share/{doc,doc-base,info,locale,man,lintian,linda}/*
find "$root/dev" -mindepth 1 -delete
rm -f "$root"/etc/hostname "$root"/etc/resolv.conf "$root"/etc/apt/sources.list

tar -C "$root" --numeric-owner -c . | docker import --change 'CMD ["bash"]' - "$image" >/dev/null
say "imported $image ($(docker image inspect --format '{{.Size}}' "$image" | numfmt --to=si)B)"
