// Products, softmax, norms and attention, each by its line in cases.hpp.
#include "check_cases.hpp"

using namespace meft::test;

TEST_CASE("gradients agree with central differences") { check_gradients(matrix_cases()); }
TEST_CASE("float is close to double") { check_precision(matrix_cases()); }
TEST_CASE("the tape holds exactly the bytes that the line states") { check_saved(matrix_cases()); }
TEST_CASE("same bits with and without a tape, on one and on two threads") { check_bits(matrix_cases()); }
