#include "cli/serial_output.hpp"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <future>
#include <memory>
#include <string>

#include <gtest/gtest.h>

namespace vert::cli {
namespace {

using std::chrono::milliseconds;

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    EXPECT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    reading = base::Fd(ends[0]);
    writing = base::Fd(ends[1]);
  }
  /// All until the writing side is closed.
  std::string read_all() {
    std::string text;
    std::array<char, 65536> bytes;
    ssize_t count = 0;
    while ((count = read(reading.get(), bytes.data(), bytes.size())) > 0) {
      text.append(bytes.data(), static_cast<std::size_t>(count));
    }
    return text;
  }
  base::Fd reading;
  base::Fd writing;
};

void put(SerialOutput& output, std::string_view text) {
  output.write({reinterpret_cast<const u8*>(text.data()), text.size()});
}

std::unique_ptr<SerialOutput> start(base::Fd fd, SerialOutput::Limits limits,
                                    std::function<void(int)> on_lost = {}) {
  return SerialOutput::start(std::move(fd), limits, std::move(on_lost)).value();
}

std::string numbered_lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += std::to_string(i) + "\n";
  return text;
}

class SerialOutputTest : public testing::Test {
 protected:
  SerialOutputTest() { signal(SIGPIPE, SIG_IGN); }
};

TEST_F(SerialOutputTest, DeliversEverythingInOrder) {
  Pipe pipe;
  const std::string text = numbered_lines(100000);
  std::future<std::string> got = std::async(std::launch::async, [&] { return pipe.read_all(); });
  {
    const auto output =
        start(std::move(pipe.writing), {.buffer_bytes = 1000, .patience = milliseconds(60000)});
    for (const char byte : text.substr(0, 5000)) put(*output, {&byte, 1});
    put(*output, std::string_view(text).substr(5000));
    EXPECT_TRUE(output->drain(milliseconds(60000)));
  }
  EXPECT_EQ(got.get(), text);
}

TEST_F(SerialOutputTest, ConsumerThatTakesNothingDoesNotHoldUpTheGuest) {
  Pipe pipe;
  const auto output = start(std::move(pipe.writing), {.buffer_bytes = 4096, .patience = milliseconds(10)});
  const std::string line(1000, 'x');
  for (int i = 0; i < 100000; ++i) put(*output, line);
  EXPECT_FALSE(output->drain(milliseconds(10)));
}

TEST_F(SerialOutputTest, LossIsToldWhereItHappened) {
  Pipe pipe;
  auto output = start(std::move(pipe.writing), {.buffer_bytes = 4096, .patience = milliseconds(10)});
  for (int i = 0; i < 200; ++i) put(*output, std::string(1000, 'x'));
  std::future<std::string> got = std::async(std::launch::async, [&] { return pipe.read_all(); });
  EXPECT_TRUE(output->drain(milliseconds(60000)));
  put(*output, "after");
  EXPECT_TRUE(output->drain(milliseconds(60000)));
  output.reset();
  const std::string text = got.get();
  const auto note = text.find("bytes of the guest's output were lost here]");
  ASSERT_NE(note, std::string::npos);
  const auto number = std::stoul(text.substr(text.rfind("[vert: ", note) + 7));
  const auto kept = static_cast<std::size_t>(std::ranges::count(text.substr(0, note), 'x'));
  EXPECT_EQ(kept + number, 200000U);
  EXPECT_TRUE(text.ends_with("after"));
}

TEST_F(SerialOutputTest, LostConsumerIsReportedOnce) {
  Pipe pipe;
  pipe.reading.reset();
  std::promise<int> lost;
  const auto output =
      start(std::move(pipe.writing), {}, [&](int error_number) { lost.set_value(error_number); });
  put(*output, "a");
  EXPECT_EQ(lost.get_future().get(), EPIPE);
  put(*output, std::string(std::size_t{4} << 20, 'b'));
  EXPECT_FALSE(output->drain(milliseconds(1)));
}

TEST_F(SerialOutputTest, FullDiskLosesBytesButNotTheGuest) {
  base::Fd full(open("/dev/full", O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(full.valid());
  const auto output =
      start(std::move(full), {}, [](int) { ADD_FAILURE() << "a full disk is not a lost console"; });
  put(*output, std::string(std::size_t{4} << 20, 'x'));
  EXPECT_TRUE(output->drain(milliseconds(60000)));
}

TEST_F(SerialOutputTest, AbandonFreesAWaitingWriter) {
  Pipe pipe;
  const auto output = start(std::move(pipe.writing), {.buffer_bytes = 4096, .patience = milliseconds(60000)});
  std::future<void> writer = std::async(std::launch::async, [&] { put(*output, std::string(1 << 20, 'x')); });
  EXPECT_EQ(writer.wait_for(milliseconds(20)), std::future_status::timeout);
  output->abandon();
  EXPECT_EQ(writer.wait_for(milliseconds(5000)), std::future_status::ready);
}

}  // namespace
}  // namespace vert::cli
