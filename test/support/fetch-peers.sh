#!/usr/bin/env bash
# Fetches what tests move real guests between, next to the distribution's QEMU 7.2 and without installing anything:
#   CACHE/qemu-10.0   Debian's backported QEMU 10.0, unpacked
#   CACHE/linux-6.1   vmlinuz, Debian's kernel for clouds
#   CACHE/host        what an emulated host is made of: vmlinuz of Debian's newer kernel for clouds, some of its modules, busybox
#   CACHE/guest-6.1, CACHE/guest-6.12  what a guest of tram's is made of: both kernels, modules for its devices, busybox
# where CACHE is ${XDG_CACHE_HOME:-~/.cache}/tram-test. What is there already is left alone. Needs no root.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/tram-test
qemu=$cache/qemu-10.0
linux=$cache/linux-6.1
host=$cache/host
# In the order in which they are loaded; some are built into some kernels.
modules=(irqbypass kvm kvm-amd virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net virtio_blk llc stp bridge tun)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

guests=(6.1 6.12)
guest_modules=(virtio_ring virtio virtio_mmio virtio_balloon virtio_blk rng-core virtio-rng vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport failover net_failover virtio_net)

# has FOLDER MODULE...: it was made, and for these modules.
has() {
  local folder=$1
  shift
  [[ -r $folder/modules/order && $(<"$folder/modules/order") == "$(printf '%s\n' "$@")" ]]
}

has_all() {
  [[ -d $qemu && -d $linux ]] && has "$host" "${modules[@]}" || return 1
  for version in "${guests[@]}"; do has "$cache/guest-$version" "${guest_modules[@]}" || return 1; done
}

has_all && exit

fail() {
  echo "fetch-peers: $*" >&2
  exit 1
}

for tool in apt-get dpkg-deb flock xz; do
  command -v $tool >/dev/null || fail "$tool is missing: QEMU 10.0 and the kernels come as Debian packages"
done
[[ -r $keyring ]] || fail "$keyring is missing: apt-get install debian-archive-keyring"

# Everything is made in a folder of its own and moved into place whole: whoever is killed leaves nothing that looks done.
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
rm -rf "$cache"/.new-* # of one that was killed
new=$(mktemp -d "$cache/.new-XXXXXX")
trap 'rm -rf "$new"' EXIT
cd "$new"

# apt with lists, cache and sources of its own: the host's are neither read nor changed.
mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 2>/dev/null | sed -n 's/^bookworm //p' | head -n 1 || true)
mirror=${mirror:-http://deb.debian.org/debian}
mkdir -p lists/partial archives/partial
for suite in bookworm bookworm-backports; do
  echo "deb [arch=amd64 signed-by=$keyring] $mirror $suite main"
done >sources.list
apt=(
  -o Dir::Etc::SourceList="$new/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o Dir::State::Lists="$new/lists" -o Dir::State::Status=/dev/null -o Dir::Cache="$new"
  -o APT::Architecture=amd64 -o APT::Sandbox::User=root -o APT::Update::Error-Mode=any
  -o Acquire::Languages=none -o Acquire::Retries=2 -o Acquire::http::Timeout=20
)

# One line for what went wrong, of the many that apt writes.
run() {
  local what=$1
  shift
  "$@" >log 2>&1 || fail "$what: $(grep -m 1 '^E: ' log || tail -n 1 log)"
}

run "cannot read the package lists of $mirror" apt-get "${apt[@]}" update -qq

# The newest package of a kernel for clouds, by its version's beginning.
image_of() {
  apt-cache "${apt[@]}" search --names-only "^linux-image-${1//./\\.}\\.[0-9]+(-[0-9]+|\\+deb12)-cloud-amd64\$" | cut -d' ' -f1 | sort -V | tail -n 1
}

# unpack_modules PARTS FOLDER MODULE...: those that are none of the kernel's own parts, and the order in which they are loaded.
unpack_modules() {
  local parts=$1 to=$2 module file
  shift 2
  mkdir -p "$to"
  for module in "$@"; do
    file=$(find "$parts/lib/modules" -name "$module.ko*" -print -quit)
    case $file in
      *.xz) xz -dc "$file" >"$to/$module.ko" ;;
      *.ko) mv "$file" "$to/" ;;
    esac
  done
  printf '%s\n' "$@" >"$to/order"
}

if [[ ! -d $qemu ]]; then
  packages=(qemu-system-x86 qemu-system-common qemu-system-data seabios)
  run "cannot download QEMU from $mirror" apt-get "${apt[@]}" download -qq "${packages[@]/%//bookworm-backports}"
  [[ -e $(echo qemu-system-x86_*10.0.*.deb) ]] || fail "bookworm-backports has no QEMU 10.0: $(echo qemu-system-x86_*.deb)"
  mkdir qemu
  for package in ./*.deb; do run "cannot unpack $package" dpkg-deb -x "$package" qemu; done
  mv -T qemu "$qemu"
  rm -f ./*.deb
fi

if [[ ! -d $linux ]]; then
  image=$(apt-cache "${apt[@]}" depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-6\.1\..*\)$/\1/p')
  [[ -n $image ]] || fail "bookworm has no kernel 6.1 for clouds"
  run "cannot download $image from $mirror" apt-get "${apt[@]}" download -qq "$image"
  mkdir linux
  dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x -C linux --strip-components=2 --wildcards './boot/vmlinuz-*' './boot/config-*'
  mv linux/vmlinuz-* linux/vmlinuz
  mv -T linux "$linux"
  rm -f ./*.deb
fi

if ! has "$host" "${modules[@]}"; then
  image=$(image_of 6.12)
  [[ -n $image ]] || fail "bookworm-backports has no kernel 6.12 for clouds"
  run "cannot download $image and busybox from $mirror" apt-get "${apt[@]}" download -qq "$image" busybox-static
  mkdir -p parts host/modules
  for package in ./*.deb; do run "cannot unpack $package" dpkg-deb -x "$package" parts; done
  mv parts/boot/vmlinuz-* host/vmlinuz
  mv parts/bin/busybox host/busybox
  unpack_modules parts host/modules "${modules[@]}"
  [[ -e host/modules/kvm-amd.ko ]] || fail "$image has no module kvm-amd"
  rm -rf "$host"
  mv -T host "$host"
  rm -rf ./*.deb parts
fi

for version in "${guests[@]}"; do
  guest=$cache/guest-$version
  has "$guest" "${guest_modules[@]}" && continue
  image=$(image_of "$version")
  [[ -n $image ]] || fail "there is no kernel $version for clouds"
  run "cannot download $image and busybox from $mirror" apt-get "${apt[@]}" download -qq "$image" busybox-static
  mkdir -p parts made
  for package in ./*.deb; do run "cannot unpack $package" dpkg-deb -x "$package" parts; done
  mv parts/boot/vmlinuz-* made/vmlinuz
  mv parts/bin/busybox made/busybox
  unpack_modules parts made/modules "${guest_modules[@]}"
  [[ -e made/modules/virtio_mmio.ko ]] || fail "$image has no module virtio_mmio"
  rm -rf "$guest"
  mv -T made "$guest"
  rm -rf ./*.deb parts
done
