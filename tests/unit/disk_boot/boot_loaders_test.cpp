// Boot loaders' configurations as distributions write them, each on a disk of its own.
#include "machine/disk_boot/disk_boot.hpp"
#include "unit/disk_boot/disk_images.hpp"

namespace vert::machine::disk_boot {
namespace {

using test::DiskImage;
using test::FileReader;
using test::Files;
using test::kMiB;

const std::string kUuid = "11111111-2222-3333-4455-66778899aabb";
const std::string kOtherUuid = "21111111-2222-3333-4455-66778899aabb";

struct Partition {
  Files files;
  std::string uuid = kUuid;
};

/// "kernel | initrd | command line | source", or the error.
std::string boot(const std::vector<Partition>& partitions) {
  DiskImage image((2 + 10 * partitions.size()) * kMiB);
  std::string script = "label: gpt\n";
  for (std::size_t i = 0; i < partitions.size(); ++i)
    script += fmt::format("start={}, size=16384, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid={}\n",
                          2048 + i * 20480, kUuid);
  image.partition(script);
  for (std::size_t i = 0; i < partitions.size(); ++i)
    image.format((1 + 10 * i) * kMiB, 8 * kMiB, partitions[i].files,
                 "-L part" + std::to_string(i) + " -U " + partitions[i].uuid);
  FileReader reader(image.path());
  const auto found = find_disk_boot(reader, "d.img");
  if (!found) return found.error().message;
  return fmt::format("{} | {} | {} | {}", std::string(found->kernel.begin(), found->kernel.end()),
                     std::string(found->initrd.begin(), found->initrd.end()), found->command_line,
                     found->description.substr(found->description.find('(')));
}

std::string boot(const Files& files) { return boot(std::vector<Partition>{{files, kUuid}}); }

/// With kernels 1 and 2 and their initrds in /boot.
Files with_kernels(Files files) {
  for (const char* const version : {"1", "2"}) {
    files[std::string("/boot/vmlinuz-") + version] = std::string("kernel") + version;
    files[std::string("/boot/initrd.img-") + version] = std::string("initrd") + version;
  }
  files["/etc/fstab"] = "UUID=5b1e / ext4 rw 0 1\n";
  return files;
}

std::string boot_grub(const std::string& config, Files more = {}) {
  more["/boot/grub/grub.cfg"] = config;
  return boot(with_kernels(std::move(more)));
}

const std::string kDebianHead =
    "if [ -s $prefix/grubenv ]; then\n  set have_grubenv=true\n  load_env\nfi\n"
    "if [ \"${next_entry}\" ] ; then\n   set default=\"${next_entry}\"\n   set next_entry=\n   save_env "
    "next_entry\n"
    "   set boot_once=true\nelse\n   set default=\"0\"\nfi\n"
    "if [ x\"${feature_menuentry_id}\" = xy ]; then\n  menuentry_id_option=\"--id\"\nelse\n"
    "  menuentry_id_option=\"\"\nfi\nexport menuentry_id_option\n"
    "function load_video {\n  if [ x$feature_all_video_module = xy ]; then\n    insmod all_video\n  else\n"
    "    insmod efi_gop\n  fi\n}\n";

TEST(Grub, DebianCloudImage) {
  EXPECT_EQ(
      boot_grub(kDebianHead +
                "menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class gnu --class os "
                "$menuentry_id_option 'gnulinux-simple-1111' {\n"
                "\tload_video\n\tinsmod gzio\n"
                "\tif [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi\n"
                "\tinsmod part_gpt\n\tinsmod ext2\n"
                "\tsearch --no-floppy --fs-uuid --set=root " +
                kUuid +
                "\n"
                "\techo\t'Loading Linux 1 ...'\n"
                "\tlinux\t/boot/vmlinuz-1 root=PARTUUID=1234 ro  console=tty0 console=ttyS0,115200 "
                "earlyprintk=ttyS0,115200 consoleblank=0\n"
                "\techo\t'Loading initial ramdisk ...'\n\tinitrd\t/boot/initrd.img-1\n}\n"
                "submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced' {\n"
                "\tmenuentry 'Debian GNU/Linux, with Linux 2' {\n\tlinux /boot/vmlinuz-2\n}\n}\n"),
      "kernel1 | initrd1 | root=PARTUUID=1234 ro console=tty0 console=ttyS0,115200 earlyprintk=ttyS0,115200 "
      "consoleblank=0 | (grub.cfg, entry 'Debian GNU/Linux')");
}

TEST(Grub, UbuntuCloudImage) {
  EXPECT_EQ(
      boot_grub(kDebianHead +
                "function gfxmode {\n\tset gfxpayload=\"${1}\"\n\tif [ \"${1}\" = \"keep\" ]; then\n"
                "\t\tset vt_handoff=vt.handoff=7\n\telse\n\t\tset vt_handoff=\n\tfi\n}\n"
                "menuentry 'Ubuntu' --class ubuntu $menuentry_id_option 'gnulinux-simple' {\n"
                "\trecordfail\n\tgfxmode $linux_gfx_mode\n"
                "\tif [ \"${initrdfail}\" = 1 ]; then\n"
                "\t  linux\t/boot/vmlinuz-2 root=PARTUUID=12 ro quiet splash $vt_handoff\n"
                "\t  initrd\t/boot/initrd.img-2\n"
                "\telse\n"
                "\t  linux\t/boot/vmlinuz-2 root=PARTUUID=12 ro quiet splash $vt_handoff panic=-1\n"
                "\tfi\n\tinitrdfail\n}\n"),
      "kernel2 | initrd2 | root=PARTUUID=12 ro quiet splash console=ttyS0 | (grub.cfg, entry 'Ubuntu')");
}

TEST(Grub, InitrdlessEntryHasNone) {
  EXPECT_EQ(boot_grub("menuentry a {\n linux /boot/vmlinuz-2 root=/dev/vda1 console=hvc0\n}\n"),
            "kernel2 |  | root=/dev/vda1 console=hvc0 | (grub.cfg, entry 'a')");
}

TEST(Grub, SeparateBootPartitionIsSearchedFor) {
  const Files root = {{"/boot/grub/grub.cfg",
                       "menuentry a {\n set root='hd0,gpt1'\n search --no-floppy --fs-uuid "
                       "--set=root --hint-bios=hd0,gpt2 " +
                           kOtherUuid + "\n linux /vmlinuz root=x\n initrd /initrd\n}\n"}};
  EXPECT_EQ(boot(std::vector<Partition>{{root, kUuid},
                                        {{{"/vmlinuz", "kernel"}, {"/initrd", "initrd"}}, kOtherUuid}}),
            "kernel | initrd | root=x console=ttyS0 | (grub.cfg, entry 'a')");
}

TEST(Grub, OtherWaysToNameAPartition) {
  for (const std::string command :
       {"set root='hd0,gpt2'\n linux /vmlinuz", "set root='hd0,2'\n linux ($root)/vmlinuz",
        "linux (hd0,gpt2)/vmlinuz", "search --set=root --label part1\n linux /vmlinuz"}) {
    const Files root = {{"/boot/grub/grub.cfg", "menuentry a {\n " + command + " x\n}\n"}};
    EXPECT_EQ(boot(std::vector<Partition>{{root, kUuid}, {{{"/vmlinuz", "kernel"}}, kOtherUuid}}),
              "kernel |  | x console=ttyS0 | (grub.cfg, entry 'a')")
        << command;
  }
}

TEST(Grub, SeveralInitrdsAreJoinedAtMultiplesOfFour) {
  const auto text =
      boot_grub("menuentry a {\n linux /boot/vmlinuz-1 x\n initrd /ucode /boot/initrd.img-1\n}\n",
                {{"/ucode", "12345"}});
  EXPECT_EQ(text, std::string("kernel1 | 12345\0\0\0initrd1 | x console=ttyS0 | (grub.cfg, entry 'a')", 67));
}

TEST(Grub, ArgumentWithABlankIsQuoted) {
  EXPECT_EQ(boot_grub("menuentry a {\n linux /boot/vmlinuz-1 \"a=b c\" d\n}\n"),
            "kernel1 |  | \"a=b c\" d console=ttyS0 | (grub.cfg, entry 'a')");
}

TEST(Grub, SavedEntryOfTheEnvironmentBlock) {
  const std::string config =
      "set default=\"${saved_entry}\"\nmenuentry a --id ia {\n linux /boot/vmlinuz-1 x\n}\n"
      "menuentry b --id ib {\n linux /boot/vmlinuz-2 $more\n}\n";
  EXPECT_EQ(
      boot_grub(config, {{"/boot/grub/grubenv", "# GRUB Environment Block\nsaved_entry=ib\nmore=y z\n####"}}),
      "kernel2 |  | y z console=ttyS0 | (grub.cfg, entry 'b')");
}

TEST(Grub, EntryWithUnknownVariablesFallsThrough) {
  EXPECT_EQ(boot_grub("menuentry a {\n linux /boot/vmlinuz-1 root=${rootdev}\n}\n"),
            "kernel2 | initrd2 | root=UUID=5b1e ro console=ttyS0 | (the newest kernel on partition 1, since "
            "entry 'a' "
            "of grub.cfg uses variables that vert does not know (root=${rootdev}))");
}

TEST(Grub, EntryWhoseKernelIsGoneFallsThrough) {
  EXPECT_EQ(boot_grub("menuentry a {\n linux /boot/vmlinuz-0 root=x\n}\n"),
            "kernel2 | initrd2 | root=UUID=5b1e ro console=ttyS0 | (the newest kernel on partition 1, since "
            "entry 'a' "
            "of grub.cfg names /boot/vmlinuz-0, which is not there)");
}

TEST(Grub, EntryOfAnotherSystemFallsThrough) {
  EXPECT_EQ(boot_grub("menuentry a {\n chainloader +1\n}\n"),
            "kernel2 | initrd2 | root=UUID=5b1e ro console=ttyS0 | (the newest kernel on partition 1, since "
            "entry 'a' "
            "of grub.cfg boots no Linux)");
}

const std::string kFedoraGrub =
    "set default=\"${saved_entry}\"\n"
    "if [ -z \"${kernelopts}\" ]; then\n  set kernelopts=\"root=UUID=77 ro\"\nfi\ninsmod blscfg\nblscfg\n";

/// The files of Fedora's /boot, with entries whose options are these.
Files fedora(const std::string& options, const std::string& environment) {
  Files files = {{"/grub2/grub.cfg", kFedoraGrub},
                 {"/grub2/grubenv", "# GRUB Environment Block\n" + environment + "####"},
                 {"/loader/entries/5f2e-0-rescue.conf",
                  "title rescue\nlinux /vmlinuz-0-rescue\nversion 0-rescue-5f2e\n"},
                 {"/vmlinuz-0-rescue", "rescue"}};
  for (const std::string version : {"6.9.4-200.fc40", "6.10.3-200.fc40"}) {
    files["/loader/entries/5f2e-" + version + ".conf"] =
        "title Fedora Linux (" + version + ")\nversion " + version + "\nlinux /vmlinuz-" + version +
        "\ninitrd /initramfs-" + version + ".img $tuned_initrd\noptions " + options +
        "\ngrub_users $grub_users\ngrub_class fedora\n";
    files["/vmlinuz-" + version] = "kernel " + version;
    files["/initramfs-" + version + ".img"] = "initrd";
  }
  return files;
}

TEST(LoaderEntries, FedorasNewestIsTheDefault) {
  EXPECT_EQ(boot(fedora("root=UUID=6666 ro rootflags=subvol=root console=ttyS0 $tuned_params", "")),
            "kernel 6.10.3-200.fc40 | initrd | root=UUID=6666 ro rootflags=subvol=root console=ttyS0 | "
            "(loader entry "
            "'Fedora Linux (6.10.3-200.fc40)')");
}

TEST(LoaderEntries, FedorasSavedEntryAndOptions) {
  EXPECT_EQ(boot(fedora("$kernelopts", "saved_entry=5f2e-6.9.4-200.fc40\nkernelopts=root=/dev/vda1 ro\n")),
            "kernel 6.9.4-200.fc40 | initrd | root=/dev/vda1 ro console=ttyS0 | (loader entry 'Fedora Linux "
            "(6.9.4-200.fc40)')");
}

TEST(LoaderEntries, FedorasOptionsMayBeSetInGrubCfg) {
  EXPECT_EQ(boot(fedora("$kernelopts", "")),
            "kernel 6.10.3-200.fc40 | initrd | root=UUID=77 ro console=ttyS0 | (loader entry 'Fedora Linux "
            "(6.10.3-200.fc40)')");
}

std::string entry(const std::string& kernel, const std::string& more = "") {
  return "title entry " + kernel + "\nlinux " + kernel + "\noptions x\n" + more;
}

/// The kernel that is booted from those entries; each names one of /a, /b and /c.
std::string chosen(const Files& entries, const std::string& loader_conf = "") {
  Files files = {{"/a", "a"}, {"/b", "b"}, {"/c", "c"}, {"/loader/loader.conf", loader_conf}};
  for (const auto& [name, text] : entries) files["/loader/entries/" + name] = text;
  return boot(files).substr(0, 1);
}

TEST(LoaderEntries, DefaultOfLoaderConfIsAPattern) {
  const Files entries = {{"one.conf", entry("/a")}, {"two-1.conf", entry("/b")}, {"two-2.conf", entry("/c")}};
  EXPECT_EQ(chosen(entries), "c");
  EXPECT_EQ(chosen(entries, "timeout 3\ndefault one\n"), "a");
  EXPECT_EQ(chosen(entries, "default one.conf\n"), "a");
  EXPECT_EQ(chosen(entries, "default two-*\n"), "c");
  EXPECT_EQ(chosen(entries, "default ONE*.conf\n"), "a");
  EXPECT_EQ(chosen(entries, "default @saved\n"), "c");
  EXPECT_EQ(chosen(entries, "default gone\n"), "c");
}

TEST(LoaderEntries, SortKeysGoBeforeVersions) {
  EXPECT_EQ(chosen({{"1.conf", entry("/a", "sort-key debian\nversion 6.9\n")},
                    {"2.conf", entry("/b", "sort-key debian\nversion 6.10\n")},
                    {"3.conf", entry("/c", "sort-key zzz\nversion 7\n")}}),
            "b");
}

TEST(LoaderEntries, EntryThatHasFailedGoesLast) {
  EXPECT_EQ(chosen({{"1.conf", entry("/a")}, {"2+0-3.conf", entry("/b")}}), "a");
  EXPECT_EQ(chosen({{"1.conf", entry("/a")}, {"2+3-0.conf", entry("/b")}}), "b");
}

TEST(LoaderEntries, EntriesThatCannotBootHereAreLeftOut) {
  EXPECT_EQ(chosen({{"1.conf", entry("/a")},
                    {"2.conf", entry("/b", "architecture aa64\n")},
                    {"3.conf", "title Windows\nefi /EFI/windows.efi\n"},
                    {"4.conf", entry("/gone")},
                    {"5.conf", entry("/c", "initrd /gone\n")},
                    {"6.conf~", entry("/c")}}),
            "a");
}

TEST(LoaderEntries, PathsMayBeginAtTheBootFolder) {
  EXPECT_EQ(
      boot({{"/boot/loader/entries/a.conf", "linux /5f2e/linux\noptions a\noptions b\ninitrd /5f2e/initrd\n"},
            {"/boot/5f2e/linux", "kernel"},
            {"/boot/5f2e/initrd", "initrd"}}),
      "kernel | initrd | a b console=ttyS0 | (loader entry 'a')");
}

TEST(Extlinux, Alpine) {
  EXPECT_EQ(
      boot({{"/boot/extlinux.conf",
             "# Generated by update-extlinux\nDEFAULT menu.c32\nPROMPT 0\nMENU TITLE Alpine/Linux Boot Menu\n"
             "MENU AUTOBOOT Alpine will be booted automatically in # seconds.\nTIMEOUT 10\nLABEL virt\n"
             "  MENU DEFAULT\n  MENU LABEL ^Linux virt\n  LINUX vmlinuz-virt\n  INITRD initramfs-virt\n"
             "  APPEND root=UUID=66 modules=sd-mod,usb-storage,ext4 console=ttyS0,115200n8\n\nMENU "
             "SEPARATOR\n"},
            {"/boot/vmlinuz-virt", "kernel"},
            {"/boot/initramfs-virt", "initrd"}}),
      "kernel | initrd | root=UUID=66 modules=sd-mod,usb-storage,ext4 console=ttyS0,115200n8 | "
      "(extlinux.conf, "
      "entry 'Linux virt')");
}

TEST(Extlinux, DefaultLabelAndInitrdInTheOptions) {
  EXPECT_EQ(
      boot({{"/boot/syslinux/syslinux.cfg",
             "default two\nappend general\nlabel one\n kernel /gone\nlabel two\n kernel ../kernel\n append "
             "initrd=/boot/i1,/boot/i2 quiet\n"},
            {"/boot/kernel", "kernel"},
            {"/boot/i1", "1234"},
            {"/boot/i2", "5"}}),
      "kernel | 12345 | quiet console=ttyS0 | (syslinux.cfg, entry 'two')");
}

TEST(Extlinux, LabelWithoutOptionsHasTheGeneralOnes) {
  const std::string config = "append general\nlabel one\n kernel /kernel\n";
  EXPECT_EQ(boot({{"/extlinux/extlinux.conf", config}, {"/kernel", "kernel"}}),
            "kernel |  | general console=ttyS0 | (extlinux.conf, entry 'one')");
  EXPECT_EQ(boot({{"/extlinux/extlinux.conf", config + "append -\n"}, {"/kernel", "kernel"}}),
            "kernel |  | console=ttyS0 | (extlinux.conf, entry 'one')");
}

TEST(BootLoaders, ConfigurationElsewhereGoesBeforeAGuess) {
  const Files first = with_kernels({});
  const Files second = {{"/grub/grub.cfg", "menuentry a {\n linux /kernel x\n}\n"}, {"/kernel", "kernel"}};
  EXPECT_EQ(boot(std::vector<Partition>{{first, kUuid}, {second, kOtherUuid}}),
            "kernel |  | x console=ttyS0 | (grub.cfg, entry 'a')");
}

TEST(BootLoaders, LoaderEntriesGoBeforeGrubAndGrubBeforeExtlinux) {
  Files files = {{"/kernel", "kernel"},
                 {"/extlinux/extlinux.conf", "label x\n kernel /kernel\n"},
                 {"/grub/grub.cfg", "menuentry g {\n linux /kernel\n}\n"},
                 {"/loader/entries/l.conf", "linux /kernel\n"}};
  EXPECT_EQ(boot(files), "kernel |  | console=ttyS0 | (loader entry 'l')");
  files.erase("/loader/entries/l.conf");
  EXPECT_EQ(boot(files), "kernel |  | console=ttyS0 | (grub.cfg, entry 'g')");
}

TEST(BootLoaders, ControlCharactersDoNotReachTheTerminal) {
  EXPECT_EQ(boot_grub("menuentry 'a\x1B[2J' {\n linux /boot/vmlinuz-1 x\x1By\xFF\n}\n"),
            "kernel1 |  | x?y? console=ttyS0 | (grub.cfg, entry 'a?[2J')");
}

TEST(BootLoaders, CommandLineThatIsTooLongIsRefused) {
  EXPECT_EQ(boot_grub("menuentry a {\n linux /boot/vmlinuz-1 " + std::string(5000, 'x') + "\n}\n"),
            "d.img: the command line has 5014 bytes, which no kernel takes: name a kernel with --kernel");
}

}  // namespace
}  // namespace vert::machine::disk_boot
