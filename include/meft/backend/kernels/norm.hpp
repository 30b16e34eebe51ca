// Owns: the interface of layer norm and RMS norm over rows, also of a residual's sum.
#pragma once

#include <cstdint>

#include <meft/backend/backend.hpp>
#include <meft/base/random.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// Rows of [rows, n]: y = (x − mean) · rstd · gamma + beta, rstd = 1/√(variance + epsilon). Keeps mean and rstd. A null
/// `mean`, here and below, stands for 0, also in the variance: RMS norm. `beta` may be null. A device also writes y to
/// `rounded`, rounded to bf16, where that is not null, and then `y` may be null.
template <Backend B, Real T>
void layer_norm(B, Index rows, Index n, const T* x, const T* gamma, const T* beta, T epsilon, T* y, T* mean, T* rstd,
                bf16* rounded = nullptr);
/// dx = rstd · (g − mean(g) − x̂ · mean(g x̂)), without mean(g) in RMS norm; g = dy · gamma, x̂ = (x − mean) · rstd. `dx`
/// may be `dy`. A device adds that to `from`, which may be dx, where it is not null.
template <Backend B, Real T>
void layer_norm_backward(B, Index rows, Index n, const T* x, const T* gamma, const T* mean, const T* rstd, const T* dy,
                         T* dx, const T* from = nullptr);
/// dgamma[j] = Σ_r dy[r, j] · x̂[r, j], dbeta[j] = Σ_r dy[r, j]; either may be null.
template <Backend B, Real T>
void layer_norm_weights(B, Index rows, Index n, const T* x, const T* mean, const T* rstd, const T* dy, T* dgamma,
                        T* dbeta);

/// s = x + dropout(t), or with `also` x + (also + dropout(t)), as add_dropped; y = its layer_norm; `s` may be `y`.
template <Backend B, Real T>
void residual_norm(B, Index rows, Index n, const T* x, const T* t, const T* also, double p, Key key,
                   std::uint64_t first, const T* gamma, const T* beta, T epsilon, T* s, T* y, T* mean, T* rstd,
                   bf16* rounded = nullptr);
/// layer_norm_backward, and dt = the dropout of what it gives before that is added, rounded. For devices.
template <Backend B>
void residual_norm_backward(B, Index rows, Index n, const float* s, const float* gamma, const float* mean,
                            const float* rstd, const float* dy, double p, Key key, std::uint64_t first,
                            const float* from, float* dx, bf16* dt);

}  // namespace meft
