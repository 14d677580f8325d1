// What a child that was taken over may ask of its parent.
#include "machine/disk_boot/block_service.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include "unit/disk_boot/disk_images.hpp"

namespace vert::machine::disk_boot {
namespace {

class BlockService : public testing::Test {
 protected:
  void send(const std::vector<u64>& words, std::size_t bytes) {
    ASSERT_EQ(::write(sockets_.child.get(), words.data(), bytes), static_cast<ssize_t>(bytes));
  }
  std::string served() {
    const auto result = serve_request(disk_, sockets_.parent.get());
    if (!result) return result.error().message;
    return *result == Served::kAnswer ? "answer" : *result == Served::kEnd ? "end" : "nothing";
  }

  test::MemoryReader disk_{std::vector<u8>(100'000)};
  ServiceSockets sockets_ = make_service_sockets().value();
};

TEST_F(BlockService, RequestWithinTheDiskIsAnswered) {
  send({99'990, 10}, 16);
  EXPECT_EQ(served(), "answer");
  std::array<u8, 100> reply{};
  EXPECT_EQ(::read(sockets_.child.get(), reply.data(), reply.size()), 18);
}

TEST_F(BlockService, NoRequestIsNoAnswer) { EXPECT_EQ(served(), "nothing"); }

TEST_F(BlockService, EndOfTheChildIsTheEnd) {
  sockets_.child.reset();
  EXPECT_EQ(served(), "end");
}

TEST_F(BlockService, ChildThatDiesBeforeItsAnswerIsTheEnd) {
  send({0, 10}, 16);
  sockets_.child.reset();
  EXPECT_EQ(served(), "end");
}

TEST_F(BlockService, RequestsBeyondTheDiskAreImpossible) {
  for (const auto& words : std::vector<std::vector<u64>>{
           {99'999, 2}, {100'001, 1}, {~u64{0}, 1}, {0, 0}, {0, kMaxRequest + 1}, {0, ~u64{0}}}) {
    send(words, 16);
    EXPECT_EQ(served(), "reading it made an impossible request") << words[0] << " " << words[1];
  }
}

TEST_F(BlockService, RequestsOfAnotherLengthAreImpossible) {
  for (const std::size_t bytes : {1, 15, 17, 24}) {
    send({0, 10, 0}, bytes);
    EXPECT_EQ(served(), "reading it made an impossible request") << bytes;
  }
}

TEST_F(BlockService, ChildThatTakesNoAnswersDoesNotBlockTheParent) {
  std::string last = "answer";
  for (int i = 0; i < 10'000 && last == "answer"; ++i) {
    send({0, kMaxRequest}, 16);
    last = served();
  }
  EXPECT_EQ(last, "reading it made requests without taking the answers");
}

}  // namespace
}  // namespace vert::machine::disk_boot
