#!/bin/bash
# unit_box.sh UNITFILE TESTSCRIPT [SRC:DEST ...]: boots a systemd of its own in a box made in memory (the host's /usr under an overlay, a
# fresh /etc, no network but lo), puts the files in, runs the test beside the unit; exits as the test did. Needs root,
# systemd-nspawn, overlayfs, cgroup v2. Everything is gone afterwards.
# BOX_PACKAGES="a, b": a box with these Debian packages and nothing else (bare_root.py). UNITFILE may be the mere name of a unit the test installs.
[ "${NS:-}" ] || NS=1 exec unshare --mount --propagation private "$0" "$@"
set -eu
unit=$1 test=$2; shift 2
R=$(mktemp -d /tmp/unit-box.XXXXXX)
CG=
trap 'cd /; umount -l "$R"; rmdir "$R"; [ -z "$CG" ] || find "$CG" -depth -type d -exec rmdir {} \;' EXIT
mount -t tmpfs -o mode=755 box "$R"
if [ "${BOX_PACKAGES:-}" ]; then
    "$(dirname "$0")/bare_root.py" "$R" "$BOX_PACKAGES"
else
    mkdir -p "$R"/{.up,.work,usr,etc}
    mount -t overlay box -o "lowerdir=/usr,upperdir=$R/.up,workdir=$R/.work" "$R/usr"
    for l in bin sbin lib lib32 lib64; do [ ! -L /$l ] || cp -a /$l "$R/"; done
    for f in ld.so.cache nsswitch.conf passwd group pam.d ssl alternatives localtime manpath.config; do [ ! -e /etc/$f ] || cp -a /etc/$f "$R/etc/"; done
    ln -s ../usr/lib/os-release "$R/etc/os-release"
fi
mkdir -p "$R"/{etc/systemd/system,var/lib,var/log/journal,var/tmp,tmp,run,proc,sys,dev,root,opt,srv,home}
chmod 1777 "$R/tmp" "$R/var/tmp"
echo box > "$R/etc/hostname"
echo '127.0.0.1 localhost box' > "$R/etc/hosts"
tr -d - < /proc/sys/kernel/random/uuid > "$R/etc/machine-id"
ln -sfn /run "$R/var/run"
for m in getty.target console-getty.service systemd-logind.service systemd-firstboot.service; do ln -s /dev/null "$R/etc/systemd/system/$m"; done
[ ! -e "$unit" ] || cp "$unit" "$R/etc/systemd/system/"
for c; do mkdir -p "$(dirname "$R${c#*:}")"; cp -rL "${c%%:*}" "$R${c#*:}"; done
install "$test" "$R/opt/test"
cat > "$R/etc/systemd/system/box-test.service" <<END
[Unit]
Requires=multi-user.target
After=multi-user.target
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
TimeoutStartSec=600
Environment=UNIT=$(basename "$unit") SYSTEMD_COLORS=0 SYSTEMD_PAGER=
ExecStart=/opt/test
StandardOutput=file:/test.log
StandardError=inherit
END
opts=(-D "$R" --boot --register=no --machine="box-$$" --private-network --console=read-only --link-journal=no --resolv-conf=off
    --timezone=off --system-call-filter=@known)
if [ ! -d /run/systemd/system ]; then		# this host has no systemd to ask for a scope
    opts+=(--keep-unit)
    mkdir -p /run/systemd
    mount -t tmpfs tmpfs /run/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    CG=$(sed -n 's/^0:://p' /proc/self/cgroup)
    CG=/sys/fs/cgroup${CG%/}/unit-box.$$
    mkdir "$CG"
fi
rc=0
( [ -z "$CG" ] || echo $BASHPID > "$CG/cgroup.procs"
  exec systemd-nspawn "${opts[@]}" -- systemd.unit=box-test.service ) > "$R/console.log" 2>&1 < /dev/null || rc=$?
cat "$R/test.log" || cat "$R/console.log"
[ $rc = 0 ] || journalctl -D "$R/var/log/journal" --no-pager -o short-monotonic -u "$(basename "$unit")" | tail -60
exit $rc
