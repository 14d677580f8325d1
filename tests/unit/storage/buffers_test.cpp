#include "storage/buffers.hpp"

#include <array>

#include <gtest/gtest.h>

namespace vert::storage {
namespace {

class BuffersTest : public testing::Test {
 protected:
  std::array<u8, 3> first_ = {1, 2, 3};
  std::array<u8, 4> second_ = {4, 5, 6, 7};
  std::array<iovec, 2> pieces_ = {buffer_of(std::span<u8>(first_)), buffer_of(std::span<u8>(second_))};

  [[nodiscard]] std::vector<u8> bytes_of(Buffers buffers) const {
    std::vector<u8> bytes(total_size(buffers));
    copy_from(buffers, bytes);
    return bytes;
  }
};

TEST_F(BuffersTest, ASliceCrossesPieces) {
  EXPECT_EQ(bytes_of(slice(pieces_, 1, 4)), (std::vector<u8>{2, 3, 4, 5}));
  EXPECT_EQ(bytes_of(slice(pieces_, 3, 4)), (std::vector<u8>{4, 5, 6, 7}));
  EXPECT_EQ(slice(pieces_, 3, 4).size(), 1U);
  EXPECT_TRUE(slice(pieces_, 7, 0).empty());
}

TEST_F(BuffersTest, CopiesFillPieceAfterPiece) {
  copy_to(pieces_, std::vector<u8>{9, 8, 7, 6, 5, 4, 3});
  EXPECT_EQ(first_, (std::array<u8, 3>{9, 8, 7}));
  EXPECT_EQ(second_, (std::array<u8, 4>{6, 5, 4, 3}));
  fill_zero(slice(pieces_, 2, 2));
  EXPECT_EQ(bytes_of(pieces_), (std::vector<u8>{9, 8, 0, 0, 5, 4, 3}));
}

}  // namespace
}  // namespace vert::storage
