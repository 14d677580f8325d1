#!/bin/busybox sh
# Process 1 of the demo's guest: says hello, shows what the guest sees of its machine, powers off.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys

echo
echo "  Hello from inside a virtual machine."
echo
echo "  kernel     $(uname -sr)"
echo "  processor  $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
echo "  count      $(grep -c '^processor' /proc/cpuinfo)"
echo "  memory     $(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024)) MiB"
echo "  clock      $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "  up for     $(cut -d ' ' -f 1 /proc/uptime) s"
echo
poweroff -f
