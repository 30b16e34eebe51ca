// Arithmetic and functions of one operand, each by its line in cases.hpp.
#include "check_cases.hpp"

using namespace meft::test;

TEST_CASE("gradients agree with central differences") { check_gradients(elementwise_cases()); }
TEST_CASE("float is close to double") { check_precision(elementwise_cases()); }
TEST_CASE("the tape holds exactly the bytes that the line states") { check_saved(elementwise_cases()); }
TEST_CASE("same bits with and without a tape, on one and on two threads") { check_bits(elementwise_cases()); }
