// Owns: runs of products by cuDNN.
#include <algorithm>
#include <fused_product.hpp>
#include <plans.hpp>
#include <vector>

#include <meft/backend/cuda/panels.hpp>
#include <meft/memory/buffer.hpp>

namespace meft::cuda::fused {

namespace {

constexpr std::size_t most_workspace = std::size_t{32} << 20;

}  // namespace

bool multiply(const ProductShape& s, const ProductData& data) {
  if (s.rows == 0 || s.rows % rows_together || s.columns % 8 || s.depth % 8 ||
      !worth(cudnnGetVersion(), architecture()) || (s.end != End::sum && !has(s.f)))
    return false;
  std::vector<std::int64_t> ids;
  std::vector<void*> addresses;
  const auto give = [&](ProductId id, const void* at) {
    ids.push_back(static_cast<std::int64_t>(id));
    addresses.push_back(const_cast<void*>(at));
    return aligned(static_cast<const std::byte*>(at));
  };
  bool fits = give(ProductId::a, data.a);
  fits &= give(ProductId::b, data.b);
  fits &= give(ProductId::c, data.c);
  if (s.bias) fits &= give(ProductId::bias, data.bias);
  if (s.end == End::slope || (s.end == End::activation && reads_argument(s.f)))
    fits &= give(ProductId::before, data.before);
  const auto* const plan = fits ? dnn::plan_of(s, [s] { return product_graph(s); }) : nullptr;
  if (!plan || plan->workspace() > most_workspace) return false;
  const UseScope use(Use::workspace);
  const Buffer workspace(Cuda::pool(), std::max<std::size_t>(plan->workspace(), 1));
  plan->run(dnn::handle(), ids, addresses, workspace.data());
  return true;
}

}  // namespace meft::cuda::fused
