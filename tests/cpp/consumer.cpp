// A C++17 user: quantized layers owned by objects, one context used by several threads at once.
// Usage: consumer [cpu | cuda]

#include "device_memory.h"
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

struct DestroyContext {
    void operator()(qlk_context *context) const { qlk_context_destroy(context); }
};
using Context = std::unique_ptr<qlk_context, DestroyContext>;

Context make_context(qlk_device_kind kind) {
    qlk_context *context = nullptr;
    check(qlk_context_create(kind, 0, &context));
    return Context(context);
}

// Numbers in device memory.
template <typename T> class Device {
  public:
    explicit Device(size_t size) : size_(size), data_(static_cast<T *>(allocate(size * sizeof(T)))) {}
    explicit Device(const std::vector<T> &values) : Device(values.size()) {
        upload(data(), values.data(), size_ * sizeof(T));
    }
    T *data() const { return data_.get(); }
    size_t size() const { return size_; }
    std::vector<T> values() const {
        std::vector<T> values(size_);
        download(values.data(), data(), size_ * sizeof(T));
        return values;
    }

  private:
    struct Release {
        void operator()(T *memory) const { release(memory); }
    };
    size_t size_;
    std::unique_ptr<T, Release> data_;
};

qlk_tensor tensor(const Device<float> &data, uint64_t rows, uint64_t cols) {
    if (data.size() < rows * cols) throw std::logic_error("too short");
    return {sizeof(qlk_tensor), QLK_DTYPE_F32, data.data(), rows, cols, 0};
}

constexpr qlk_quant_spec nf4{sizeof(qlk_quant_spec), QLK_CODEBOOK_NF4, 64, QLK_CONSTANTS_MAP, nullptr, nullptr};

qlk_sizes sizes(uint64_t n, uint64_t k) {
    qlk_sizes sizes{};
    sizes.struct_size = sizeof sizes;
    check(qlk_quantized_sizes(&nf4, n, k, &sizes));
    return sizes;
}

// A linear layer with an NF4 weight.
class Linear {
  public:
    Linear(qlk_context *context, const std::vector<float> &weight, uint64_t n, uint64_t k)
        : context_(context), codes_(sizes(n, k).code_bytes), absmax_codes_(sizes(n, k).absmax_codes_bytes),
          scales_(sizes(n, k).absmax_scales_bytes / sizeof(float)), offset_(1) {
        q_ = {sizeof q_, 0, &nf4, n, k, codes_.data(), nullptr, absmax_codes_.data(), scales_.data(), offset_.data()};
        uint64_t size = 0;
        check(qlk_quantize_workspace_size(context, &nf4, n, k, &size));
        const Device<unsigned char> workspace(size);
        const Device<float> w(weight);
        const qlk_tensor wt = tensor(w, n, k);
        check(qlk_quantize(context, &wt, &q_, workspace.data(), size, stream));
    }
    Linear(const Linear &) = delete;

    void forward(const Device<float> &x, uint64_t m, const Device<float> &y) const {
        uint64_t size = 0;
        check(qlk_gemm_workspace_size(context_, m, q_.rows, q_.cols, 0, &size));
        const Device<unsigned char> workspace(size);
        const qlk_tensor xt = tensor(x, m, q_.cols), yt = tensor(y, m, q_.rows);
        check(qlk_gemm_forward(context_, &xt, &q_, nullptr, nullptr, &yt, workspace.data(), size, stream));
    }

    void weight(const Device<float> &w) const {
        const qlk_tensor wt = tensor(w, q_.rows, q_.cols);
        check(qlk_dequantize(context_, &q_, &wt, stream));
    }

  private:
    qlk_context *context_;
    Device<uint8_t> codes_, absmax_codes_;
    Device<float> scales_, offset_;
    qlk_quantized q_{};
};

// Runs a function in four threads, each with memory of its own for the results, and says what they are if all agree.
template <typename Function> std::vector<float> in_threads(size_t size, Function function) {
    std::vector<Device<float>> results;
    for (int i = 0; i < 4; i++) results.emplace_back(size);
    std::vector<std::thread> threads;
    for (const auto &result : results) threads.emplace_back([&] {
        enter_thread();
        function(result);
    });
    for (auto &thread : threads) thread.join();
    const std::vector<float> first = results[0].values();
    for (const auto &result : results) {
        if (result.values() != first) throw std::runtime_error("threads change the result");
    }
    return first;
}

struct DestroyPager {
    void operator()(qlk_pager *pager) const { qlk_pager_destroy(pager); }
};
using Pager = std::unique_ptr<qlk_pager, DestroyPager>;

// A parameter after one step of Lion with its state in `state`, or in a pager's memory if there is one.
std::vector<float> stepped(qlk_context *context, qlk_pager *pager, float *state, const std::vector<float> &values) {
    const Device<float> param(values), grad(values);
    const qlk_tensor p = tensor(param, 1, values.size()), g = tensor(grad, 1, values.size());
    qlk_optimizer optimizer{};
    optimizer.struct_size = sizeof optimizer;
    check(qlk_optimizer_init(QLK_RULE_LION, &optimizer));
    const qlk_parameter parameter{sizeof parameter, 32, &p, &g, {state, nullptr, nullptr}, {nullptr, nullptr, nullptr}};
    uint64_t size = 0;
    if (pager == nullptr) {
        check(qlk_optimizer_workspace_size(context, &optimizer, &parameter, 1, &size));
    } else {
        check(qlk_optimizer_workspace_size(context, &optimizer, &parameter, 1, &size));
    }
    const Device<unsigned char> workspace(size);
    if (pager == nullptr) {
        check(qlk_optimizer_step(context, &optimizer, &parameter, 1, nullptr, workspace.data(), size, stream));
    } else {
        check(qlk_optimizer_step_paged(context, pager, &optimizer, &parameter, 1, nullptr, workspace.data(), size, stream));
    }
    return param.values();
}

// A step whose states do not fit the budget of their pager does what one in memory does.
void paged_step(qlk_context *context) {
    std::vector<float> values(100'000);
    for (size_t i = 0; i < values.size(); i++) values[i] = std::sin(0.7f * static_cast<float>(i));
    const qlk_pager_options options{sizeof options, QLK_PAGER_AUTO, 256 << 10, nullptr};
    qlk_pager *made = nullptr;
    check(qlk_pager_create(context, &options, &made));
    const Pager pager(made);
    void *memory = nullptr;
    check(qlk_pager_alloc(pager.get(), values.size() * sizeof(float), &memory));
    const Device<float> state(std::vector<float>(values.size()));
    const std::vector<float> plain = stepped(context, nullptr, state.data(), values);
    if (plain == values || stepped(context, pager.get(), static_cast<float *>(memory), values) != plain) {
        throw std::runtime_error("paging changes the result");
    }
    qlk_pager_statistics statistics{};
    statistics.struct_size = sizeof statistics;
    check(qlk_pager_get_statistics(pager.get(), &statistics));
    if (statistics.steps != 1 || statistics.windows < 2) throw std::runtime_error("the step was not paged");
}

} // namespace

int main(int argc, char **argv) try {
    const bool on_cuda = argc > 1 && std::string(argv[1]) == "cuda";
    if (on_cuda) open_cuda();
    const uint64_t m = 21, n = 130, k = 333;
    const Context context = make_context(on_cuda ? QLK_DEVICE_CUDA : QLK_DEVICE_CPU);
    std::vector<float> w(n * k), x(m * k);
    for (size_t i = 0; i < w.size(); i++) w[i] = std::sin(0.37f * static_cast<float>(i));
    for (size_t i = 0; i < x.size(); i++) x[i] = std::cos(0.11f * static_cast<float>(i));
    const Linear layer(context.get(), w, n, k);
    const Device<float> input(x);

    // One context, several threads.
    const std::vector<float> back = in_threads(w.size(), [&](const auto &out) { layer.weight(out); });
    for (size_t i = 0; i < w.size(); i++) {
        if (!(std::abs(back[i] - w[i]) < 0.2f)) throw std::runtime_error("the weight is off at " + std::to_string(i));
    }
    // Against the plain product with the dequantized weight.
    const std::vector<float> y = in_threads(m * n, [&](const auto &out) { layer.forward(input, m, out); });
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

    paged_step(context.get());

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
