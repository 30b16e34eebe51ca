// Scores against scikit-learn 1.9.1 and SciPy 1.17.1; the commands stand above the values.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <meft/task/metric.hpp>

#include "messages.hpp"

using namespace meft;
using test::message_of;
using Row = std::vector<float>;

namespace {

doctest::Approx near(double value) { return doctest::Approx(value).epsilon(1e-12); }

}  // namespace

TEST_CASE("metric: two classes") {
  // from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
  // y = [1,0,1,1,0,0,1,0,1,1,0,1]; q = [1,0,0,1,1,0,1,0,1,0,0,1]
  // accuracy_score(y, q), f1_score(y, q), matthews_corrcoef(y, q)
  const Row y = {1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1}, q = {1, 0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 1};
  CHECK(task::accuracy(q, y) == near(0.75));
  CHECK(task::f1(q, y) == near(0.7692307692307693));
  CHECK(task::matthews(q, y) == near(0.50709255283711));

  Row opposite;
  for (const float label : y) opposite.push_back(1 - label);
  CHECK(task::matthews(opposite, y) == near(-1.0));  // matthews_corrcoef(y, [1 - k for k in y])
  CHECK(task::matthews(y, y) == near(1.0));
  CHECK(task::accuracy(opposite, y) == 0.0);
}

TEST_CASE("metric: constant classes, as scikit-learn scores them") {
  // y as above; z = [0]*12; o = [1]*12: f1_score(y, z), matthews_corrcoef(y, z), f1_score(z, z), f1_score(o, o),
  // matthews_corrcoef(o, o), f1_score(y, o)
  const Row y = {1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1}, z(12, 0.0f), o(12, 1.0f);
  CHECK(task::f1(z, y) == 0.0);
  CHECK(task::matthews(z, y) == 0.0);
  CHECK(task::f1(z, z) == 0.0);
  CHECK(task::f1(o, o) == 1.0);
  CHECK(task::matthews(o, o) == 0.0);
  CHECK(task::matthews(o, y) == 0.0);
  CHECK(task::f1(o, y) == near(0.7368421052631579));
}

TEST_CASE("metric: three classes") {
  // y = [0,2,1,2,0,1,1,2,0,1]; q = [0,1,1,2,0,2,1,2,1,1]: accuracy_score(y, q), matthews_corrcoef(y, q)
  const Row y = {0, 2, 1, 2, 0, 1, 1, 2, 0, 1}, q = {0, 1, 1, 2, 0, 2, 1, 2, 1, 1};
  CHECK(task::accuracy(q, y) == near(0.7));
  CHECK(task::matthews(q, y) == near(0.5471422245456321));
}

TEST_CASE("metric: correlations, with ties") {
  // u, v as float32, then float64: scipy.stats.pearsonr(v, u)[0], scipy.stats.spearmanr(v, u)[0]
  const Row u = {5.0f, 4.75f, 5.0f, 2.4f, 2.75f, 2.615f, 5.0f, 2.333f, 3.75f, 0.0f};
  const Row v = {4.5f, 4.5f, 4.875f, 2.0f, 3.25f, 2.5f, 4.5f, 2.0f, 2.0f, -0.5f};
  CHECK(task::pearson(v, u) == near(0.9436606104970301));
  CHECK(task::spearman(v, u) == near(0.8994422275865827));
  CHECK(task::pearson(u, u) == near(1.0));

  Row down, shifted;
  for (const float value : u) down.push_back(-value), shifted.push_back(10000 + value);
  CHECK(task::spearman(down, u) == near(-1.0));
  CHECK(task::pearson(shifted, u) == doctest::Approx(1.0).epsilon(1e-6));  // no cancellation

  const Row constant(10, 2.4f);  // 2.4 has no exact mean: a rounding error must not become a correlation
  CHECK(task::pearson(constant, u) == 0.0);
  CHECK(task::spearman(constant, u) == 0.0);
  CHECK(task::pearson(u, constant) == 0.0);
  CHECK(task::pearson(Row{1}, Row{2}) == 0.0);
}

TEST_CASE("metric: scores by name") {
  const Row y = {1, 0, 1, 1}, q = {1, 0, 0, 1};
  const auto scores = task::metrics({"f1", "accuracy", "pearson_spearman"}, q, y);
  REQUIRE(scores.size() == 3);
  CHECK(scores[0].name == "f1");
  CHECK(scores[0].value == near(0.8));
  CHECK(scores[1].name == "accuracy");
  CHECK(scores[1].value == near(0.75));
  CHECK(scores[2].value == near(0.5 * (task::pearson(q, y) + task::spearman(q, y))));
}

TEST_CASE("metric: errors") {
  const Row two = {0, 1}, three = {0, 1, 1};
  const Row nan = {0, std::numeric_limits<float>::quiet_NaN()};
  CHECK(message_of([&] { task::accuracy(two, three); }) ==
        "accuracy: expected as many predictions as labels, found 2 and 3");
  CHECK(message_of([&] { task::f1(Row{}, Row{}); }) == "f1: no predictions");
  CHECK(message_of([&] { task::pearson(nan, two); }) == "pearson: prediction 1 is not finite");
  CHECK(message_of([&] { task::matthews(two, nan); }) == "matthews: label 1 is not finite (a row without a label?)");
  CHECK(message_of([&] { task::f1(Row{0, 2}, two); }).starts_with("f1: expected classes 0 and 1, found: 2"));
  CHECK(message_of([&] { task::metrics({"bleu"}, two, two); }) == "metrics: unknown metric `bleu`");
  try {
    task::metrics({"spearman"}, two, three);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("(metric_test.cpp:") != std::string::npos);
  }
}

TEST_CASE("metric: options to choose from") {
  // Three questions of 2, 3 and 2 options, as the Harness scores them with numpy:
  // for lls, chars, gold in [([-4, -3.5], [4, 2], 0), ([-9, -2, -2], [3, 1, 2], 1), ([-5, -6], [10, 20], 1)]:
  //   np.argmax(lls) == gold, np.argmax(np.array(lls) / chars) == gold
  // acc: no (-3.5), yes (the first of two equal ones), no; acc_norm: yes (-1 against -1.75), no (-1), yes (-0.3)
  const std::vector<double> scores = {-4, -3.5, -9, -2, -2, -5, -6};
  const std::vector<std::uint32_t> counts = {2, 3, 2}, characters = {4, 2, 3, 1, 2, 10, 20};
  const std::vector<std::int32_t> answers = {0, 1, 1};
  CHECK(task::best_options({scores, counts}) == std::vector<std::uint32_t>{1, 1, 0});
  CHECK(task::choice_accuracy({scores, counts}, answers) == near(1.0 / 3));
  CHECK(task::choice_accuracy_norm({scores, counts}, characters, answers) == near(2.0 / 3));
  const auto both = task::choice_metrics({scores, counts}, characters, answers);
  REQUIRE(both.size() == 2);
  CHECK(both[0].name == "accuracy");
  CHECK(both[0].value == near(1.0 / 3));
  CHECK(both[1].name == "accuracy_norm");
  CHECK(both[1].value == near(2.0 / 3));
}

TEST_CASE("metric: errors of options") {
  const std::vector<double> scores = {1, 2, 3};
  const std::vector<std::uint32_t> counts = {1, 2}, zero = {3, 0}, short_of = {1, 1}, huge = {~0u, ~0u};
  const std::vector<std::int32_t> answers = {0, 1}, outside = {0, 2}, hidden = {0, -1}, one = {0};
  CHECK(message_of([&] {
          task::choice_accuracy({scores, counts}, one);
        }) == "choice_accuracy: expected a number of options for each question, found 2 and 1 answers");
  CHECK(message_of([&] { task::choice_accuracy({{}, {}}, {}); }) == "choice_accuracy: no questions");
  CHECK(message_of([&] {
          task::choice_accuracy({scores, zero}, answers);
        }) == "choice_accuracy: question 1 has no options");
  CHECK(message_of([&] {
          task::choice_accuracy({scores, short_of}, answers);
        }) == "choice_accuracy: expected a score for each of 2 options, found 3");
  CHECK(message_of([&] {
          task::best_options({scores, huge});
        }) == "best_options: expected a score for each of 8589934590 options, found 3");
  CHECK(message_of([&] {
          task::choice_accuracy({scores, counts}, outside);
        }) == "choice_accuracy: question 1: expected an answer below 2, found 2");
  CHECK(message_of([&] {
          task::choice_accuracy({scores, counts}, hidden);
        }) == "choice_accuracy: question 1: expected an answer below 2, found -1");
  const std::vector<double> nan = {1, std::nan(""), 3};
  CHECK(message_of([&] { task::choice_accuracy({nan, counts}, answers); }) == "choice_accuracy: score 1 is not finite");
  const std::vector<std::uint32_t> lengths = {1, 0, 1};
  CHECK(message_of([&] {
          task::choice_accuracy_norm({scores, counts}, lengths, answers);
        }) == "choice_accuracy_norm: option 1 has length 0");
  CHECK(message_of([&] {
          task::choice_accuracy_norm({scores, counts}, counts, answers);
        }) == "choice_accuracy_norm: expected as many lengths as scores, found 2 and 3");
}

TEST_CASE("metric: perplexity") {
  CHECK(task::perplexity(6.0, 3) == near(std::exp(2.0)));
  CHECK(task::perplexity(0.0, 3) == 1.0);
  CHECK(task::perplexity(1e9, 1) == std::numeric_limits<double>::infinity());
  // Uniform over 50 words: 50, however the batches are cut.
  const float loss = std::log(50.0f);
  const std::vector<std::uint32_t> tokens = {7, 0, 300};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(task::perplexity(Row{loss, nan, loss}, tokens) == doctest::Approx(50).epsilon(1e-6));
  // exp((1*7 + 3*1) / 8)
  CHECK(task::perplexity(Row{1, 3}, std::vector<std::uint32_t>{7, 1}) == near(std::exp(1.25)));
  CHECK(message_of([] { task::perplexity(1.0, 0); }) == "perplexity: of no tokens");
  CHECK(message_of([&] {
          task::perplexity(Row{nan}, std::vector<std::uint32_t>{1});
        }).starts_with("perplexity: the sum of negative log-likelihoods is not finite"));
  CHECK(message_of([] { task::perplexity(Row{1}, std::vector<std::uint32_t>{}); }) ==
        "perplexity: expected as many losses as numbers of tokens, found 1 and 0");
}
