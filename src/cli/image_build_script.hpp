// What configures a new system and writes its disk; see image_build.hpp. Run by mmdebstrap as a hook:
// `customize.sh ROOT FOLDER`, with the file `settings` in FOLDER.
#pragma once

namespace vert::cli {

inline constexpr const char* kCustomizeScript = R"script(#!/bin/sh
set -eu
root=$1
here=$2
. "$here/settings"
PATH=$PATH:/usr/sbin:/sbin

say() { echo "I: vert: $*" >&2; }

# A UUID of version 8 (RFC 9562, 5.8) for a purpose, the same for the same packages, in the same versions.
uuid_for() {
  printf '%s\n' "$1 $inputs" | cat - "$root/var/lib/dpkg/status" | sha256sum |
    sed -E 's/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*/\1-\2-8\3-a\4-\5/'
}

say configuring
disk_uuid=$(uuid_for disk)
partition_uuid=$(uuid_for partition)
root_uuid=$(uuid_for root)
echo "$hostname" >"$root/etc/hostname"
cat >"$root/etc/hosts" <<END
127.0.0.1 localhost
127.0.1.1 $hostname
::1 localhost ip6-localhost ip6-loopback
END
echo "PARTUUID=$partition_uuid / ext4 defaults,errors=remount-ro 0 1" >"$root/etc/fstab"
cat >"$root/etc/systemd/network/80-ethernet.network" <<END
[Match]
Type=ether
[Network]
DHCP=yes
END
# A serial line tells nobody its size or what its terminal can do.
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d"
cat >"$root/etc/systemd/system/serial-getty@ttyS0.service.d/terminal.conf" <<END
[Service]
Environment=TERM=xterm-256color
END
mkdir -p "$root/usr/local/bin"
cat >"$root/usr/local/bin/resize" <<'END'
#!/bin/sh
# Asks the terminal behind a serial console for its size: the cursor cannot go further than its last corner.
saved=$(stty -g)
stty raw -echo min 0 time 5
printf '\0337\033[999;999H\033[6n\0338'
answer=$(dd bs=1 count=16 2>/dev/null | tr -cd '0-9;R')
stty "$saved"
case $answer in
  *[0-9]\;[0-9]*R*) answer=${answer%%R*}; stty rows "${answer%%;*}" cols "${answer##*;}" ;;
esac
END
chmod 755 "$root/usr/local/bin/resize"
cat >"$root/etc/profile.d/serial-console.sh" <<'END'
# After the terminal's size has changed, "resize" tells the system.
if [ -t 0 ] && [ "$(tty)" = /dev/ttyS0 ]; then
  resize
fi
END
for unit in systemd-networkd systemd-resolved serial-getty@ttyS0; do
  chroot "$root" systemctl enable "$unit" >/dev/null 2>&1 || true
done
if [ -n "$password_hash" ]; then
  echo "root:$password_hash" | chroot "$root" chpasswd -e
else
  chroot "$root" passwd -q -d root
fi
if [ -n "$ssh_key" ]; then
  mkdir -p -m 700 "$root/root/.ssh"
  printf '%s\n' "$ssh_key" >"$root/root/.ssh/authorized_keys"
  # Each machine makes keys of its own when it starts for the first time.
  rm -f "$root"/etc/ssh/ssh_host_*
  cat >"$root/etc/systemd/system/ssh-host-keys.service" <<'END'
[Unit]
Description=Make this machine's SSH keys
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A
[Install]
WantedBy=multi-user.target
END
  chroot "$root" systemctl enable ssh-host-keys >/dev/null 2>&1
fi
# Each machine gets its own.
rm -f "$root/etc/machine-id" "$root/var/lib/dbus/machine-id"
: >"$root/etc/machine-id"
chmod 444 "$root/etc/machine-id"
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap"
rm -rf "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
chown 0:0 "$root/var/cache/apt/archives"  # the cache's owner is the user
chmod 755 "$root/var/cache/apt/archives"
rm -rf "$root"/var/log/*.log "$root"/var/log/apt/* "$root"/var/cache/ldconfig/* "$root"/var/cache/debconf/*-old
rm -rf "$root"/var/lib/dpkg/*-old
# With fakechroot absolute links were made to lead into the folder.
if [ "${MMDEBSTRAP_MODE-}" = fakechroot ]; then
  find "$root" -xdev -type l -lname "$root/*" | while IFS= read -r link; do
    target=$(readlink "$link")
    ln -sfnT "${target#"$root"}" "$link"
  done
fi
# The file system is as old as the newest file in the packages, unless the user says how old, and so is what
# this build made.
started=$(stat -c %Y "$here/settings")
if [ -z "$seconds" ]; then
  seconds=$(find "$root" -xdev -path "$root/dev" -prune -o -type f ! -newermt "@$started" -printf '%T@\n' |
    LC_ALL=C sort -n | tail -n 1)
  seconds=${seconds%.*}
fi

say writing the disk
disk=$here/disk.raw
rm -f "$disk"
truncate -s "$size" "$disk"
sfdisk -q "$disk" >&2 <<END
label: gpt
label-id: $disk_uuid
start=$((offset / 512)), type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=$partition_uuid, name=root
END
export E2FSPROGS_FAKE_TIME="$seconds"
export root disk size offset root_uuid disk_uuid
# What mmdebstrap has mounted for its programs, or made there, is no part of the image.
apart=
if [ "$(id -u)" = 0 ] && unshare --mount true 2>/dev/null; then
  apart='unshare --mount'
fi
export apart
# Nor is what it configures apt by, which it needs again after this.
ours=$root/etc/apt/apt.conf.d/00mmdebstrap
mkdir "$here/apt" "$here/tmp"
trap 'mv "$here"/apt/* "$ours"; mv "$here"/tmp/* "$root/tmp"; rmdir "$here/apt" "$here/tmp"' EXIT
mv "$ours" "$here/apt"
mv "$root"/tmp/* "$here/tmp"
$apart sh -ec '
  for place in ${apart:+proc sys dev}; do
    mount -t tmpfs -o mode=755 none "$root/$place"
  done
  mke2fs -q -F -t ext4 -L root -U "$root_uuid" -b 4096 -m 1 \
    -E "offset=$offset,hash_seed=$disk_uuid,lazy_itable_init=1,lazy_journal_init=1,nodiscard" \
    -d "$root" "$disk" $(((size - 2 * offset) / 4096))' >&2
chmod 666 "$disk"
)script";

}  // namespace vert::cli
