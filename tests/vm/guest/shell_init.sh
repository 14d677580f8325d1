#!/bin/busybox sh
# Process 1 of the test guests: a shell on the console, which one of the modules may bring.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/load); do insmod "/modules/$module.ko"; done
exec </dev/console >/dev/console 2>&1
echo "vert-guest ready"
exec setsid cttyhack sh
