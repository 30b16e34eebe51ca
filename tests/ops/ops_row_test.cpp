// Reductions, moving elements, pooling, embedding, dropout and losses, each by its line in cases.hpp.
#include "check_cases.hpp"

using namespace meft::test;

TEST_CASE("gradients agree with central differences") { check_gradients(row_cases()); }
TEST_CASE("float is close to double") { check_precision(row_cases()); }
TEST_CASE("the tape holds exactly the bytes that the line states") { check_saved(row_cases()); }
TEST_CASE("same bits with and without a tape, on one and on two threads") { check_bits(row_cases()); }
