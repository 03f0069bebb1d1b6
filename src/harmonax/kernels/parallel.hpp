// Own threads per call, no OpenMP: no pool that breaks after a fork, no second runtime beside another library's.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace harmonax {

// Called now and then on the calling thread while work is in progress; true stops it.
using Poll = std::function<bool()>;

struct Interrupted {};

// Call body(item, worker) for every item, each once, on up to n_threads threads, the calling one included. Which thread
// gets which item is not fixed, so an item's results must not depend on it. Throws Interrupted when poll says so.
template <typename Body>
void parallel_for(int64_t n_items, int n_threads, const Poll& poll, const Body& body) {
    using Clock = std::chrono::steady_clock;
    std::atomic<int64_t> next{0};
    std::atomic<bool> stop{false};
    std::exception_ptr error;
    std::mutex error_lock;
    auto work = [&](int worker) {
        auto asked = Clock::now();
        try {
            for (int64_t item; !stop && (item = next++) < n_items;) {
                body(item, worker);
                if (worker == 0 && poll && Clock::now() - asked > std::chrono::milliseconds(50)) {
                    asked = Clock::now();
                    if (poll()) stop = true;
                }
            }
        } catch (...) {
            std::lock_guard<std::mutex> guard(error_lock);
            error = std::current_exception();
            stop = true;
        }
    };
    const int extra = (int)std::min<int64_t>(n_threads, n_items) - 1;
    std::vector<std::thread> threads;
    try {
        for (int i = 0; i < extra; ++i) threads.emplace_back(work, i + 1);
    } catch (const std::exception&) {
        // No more threads, or no memory for them: those there are do the work.
    }
    work(0);
    for (auto& thread : threads) thread.join();
    if (error) std::rethrow_exception(error);
    if (stop) throw Interrupted{};
}

} // namespace harmonax
