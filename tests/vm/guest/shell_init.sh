#!/bin/busybox sh
# Process 1 of the test guests: a shell on the serial console.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo "vert-guest ready"
exec setsid cttyhack sh
