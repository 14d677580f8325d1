#include "fuzz/random_code/random_guest.hpp"

namespace vert::test {

namespace {

constexpr auto kBeginnings = std::to_array<std::array<u8, 2>>({
    {0x0F, 0x00}, {0x0F, 0x01}, {0x0F, 0x20}, {0x0F, 0x22}, {0x0F, 0x23}, {0x0F, 0x30}, {0x0F, 0x32},
    {0x0F, 0xAE}, {0x0F, 0xC7}, {0x0F, 0x05}, {0x0F, 0x07}, {0x0F, 0x34}, {0x0F, 0x35}, {0x0F, 0xA2},
    {0x8E, 0xD8}, {0x8E, 0xD0}, {0xCF, 0x90}, {0xCB, 0x90}, {0xCD, 0x80}, {0xFF, 0x28}, {0xFF, 0x18},
    {0xF3, 0xA4}, {0xF3, 0xAB}, {0xC8, 0x10}, {0xD9, 0x30}, {0xDD, 0x20}, {0x62, 0xF1}, {0xC5, 0xF8},
    {0xC4, 0xE2}, {0xE7, 0x80}, {0x6C, 0x90}, {0x9D, 0x9C},
});

}  // namespace

void fill_code(Random& random, std::span<u8> code) {
  for (u8& byte : code) byte = static_cast<u8>(random.next());
  for (std::size_t at = 0; at + 2 < code.size(); at += 1 + random.below(24)) {
    const auto& beginning = kBeginnings[random.below(kBeginnings.size())];
    code[at] = beginning[0];
    code[at + 1] = beginning[1];
  }
}

u64 interesting(Random& random) {
  switch (random.below(6)) {
    case 0: return random.next();
    case 1: return random.below(0x1000);
    case 2: return 0x100000 + random.below(0x200000);
    case 3: return GuestRig::direct(Gpa(0x100000 + random.below(0x200000)));
    case 4: return (u64{1} << random.below(64)) - random.below(3);
    default: return ~u64{0} << random.below(64);
  }
}

Ticker::Ticker(std::chrono::milliseconds period, std::function<void()> work)
    : thread_([this, period, work = std::move(work)] {
        std::unique_lock lock(mutex_);
        while (!changed_.wait_for(lock, period, [this] { return done_; })) work();
      }) {}

Ticker::~Ticker() {
  {
    const std::scoped_lock lock(mutex_);
    done_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

}  // namespace vert::test
