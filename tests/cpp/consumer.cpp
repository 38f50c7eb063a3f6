// A C++17 user: quantized layers owned by objects, one context used by several threads at once.

#include "qlora_kernels.h"

#include <cmath>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

void check(qlk_status status) {
    if (status != QLK_STATUS_OK) {
        throw std::runtime_error(std::string(qlk_status_string(status)) + ": " + qlk_last_error_message());
    }
}

struct Destroy {
    void operator()(qlk_context *context) const { qlk_context_destroy(context); }
};
using Context = std::unique_ptr<qlk_context, Destroy>;

Context make_context() {
    qlk_context *context = nullptr;
    check(qlk_context_create(QLK_DEVICE_CPU, 0, &context));
    return Context(context);
}

qlk_tensor tensor(std::vector<float> &data, uint64_t rows, uint64_t cols) {
    if (data.size() < rows * cols) throw std::logic_error("too short");
    return {sizeof(qlk_tensor), QLK_DTYPE_F32, data.data(), rows, cols, 0};
}

// A linear layer with an NF4 weight.
class Linear {
  public:
    Linear(qlk_context *context, std::vector<float> &weight, uint64_t n, uint64_t k) : context_(context) {
        qlk_sizes sizes{};
        sizes.struct_size = sizeof sizes;
        check(qlk_quantized_sizes(&spec_, n, k, &sizes));
        codes_.resize(sizes.code_bytes);
        absmax_codes_.resize(sizes.absmax_codes_bytes);
        scales_.resize(sizes.absmax_scales_bytes / sizeof(float));
        q_ = {sizeof q_, 0, &spec_, n, k, codes_.data(), nullptr, absmax_codes_.data(), scales_.data(), &offset_};
        uint64_t size = 0;
        check(qlk_quantize_workspace_size(context, &spec_, n, k, &size));
        std::vector<unsigned char> workspace(size);
        const qlk_tensor w = tensor(weight, n, k);
        check(qlk_quantize(context, &w, &q_, workspace.data(), size, nullptr));
    }
    Linear(const Linear &) = delete;

    std::vector<float> forward(std::vector<float> &x, uint64_t m) const {
        std::vector<float> y(m * q_.rows);
        uint64_t size = 0;
        check(qlk_gemm_workspace_size(context_, m, q_.rows, q_.cols, 0, &size));
        std::vector<unsigned char> workspace(size);
        const qlk_tensor xt = tensor(x, m, q_.cols), yt = tensor(y, m, q_.rows);
        check(qlk_gemm_forward(context_, &xt, &q_, nullptr, nullptr, &yt, workspace.data(), size, nullptr));
        return y;
    }

    std::vector<float> weight() const {
        std::vector<float> w(q_.rows * q_.cols);
        const qlk_tensor wt = tensor(w, q_.rows, q_.cols);
        check(qlk_dequantize(context_, &q_, &wt, nullptr));
        return w;
    }

  private:
    qlk_context *context_;
    qlk_quant_spec spec_{sizeof(qlk_quant_spec), QLK_CODEBOOK_NF4, 64, QLK_CONSTANTS_MAP, nullptr, nullptr};
    std::vector<uint8_t> codes_, absmax_codes_;
    std::vector<float> scales_;
    float offset_ = 0;
    qlk_quantized q_{};
};

} // namespace

int main() try {
    const uint64_t m = 21, n = 130, k = 333;
    const Context context = make_context();
    std::vector<float> w(n * k), x(m * k);
    for (size_t i = 0; i < w.size(); i++) w[i] = std::sin(0.37f * static_cast<float>(i));
    for (size_t i = 0; i < x.size(); i++) x[i] = std::cos(0.11f * static_cast<float>(i));
    const Linear layer(context.get(), w, n, k);

    // Against the plain product with the dequantized weight.
    const std::vector<float> y = layer.forward(x, m), back = layer.weight();
    for (uint64_t i = 0; i < m; i++) {
        for (uint64_t j = 0; j < n; j++) {
            double sum = 0, magnitude = 0;
            for (uint64_t p = 0; p < k; p++) {
                const double term = static_cast<double>(x[i * k + p]) * back[j * k + p];
                sum += term, magnitude += std::abs(term);
            }
            // gamma(k + 4) of the terms' magnitudes, in f32.
            if (std::abs(y[i * n + j] - sum) > (k + 5) * std::ldexp(1.0, -24) * magnitude) {
                throw std::runtime_error("the product is off at " + std::to_string(i) + ", " + std::to_string(j));
            }
        }
    }

    // One context, several threads: the same result.
    std::vector<std::vector<float>> results(4);
    std::vector<std::thread> threads;
    for (auto &result : results) threads.emplace_back([&] { result = layer.forward(x, m); });
    for (auto &thread : threads) thread.join();
    for (const auto &result : results) {
        if (result != y) throw std::runtime_error("threads change the result");
    }

    // Errors belong to the thread that made them.
    if (qlk_context_create(99, 0, nullptr) != QLK_STATUS_INVALID_ARGUMENT) throw std::runtime_error("99 is no device");
    std::string elsewhere = "unset";
    std::thread([&] { elsewhere = qlk_last_error_message(); }).join();
    if (!elsewhere.empty()) throw std::runtime_error("another thread's error: " + elsewhere);
    std::puts("ok");
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
