// Own threads, no OpenMP: no pool that breaks after a fork, no second runtime beside another library's.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>
#ifndef _WIN32
#include <unistd.h>
#endif

namespace harmonax {

// Called now and then on the calling thread while work is in progress; true stops it.
using Poll = std::function<bool()>;

struct Interrupted {};

// Threads that wait from one call to the next: a pass asks for them twenty times, and to start as many takes longer than
// a block does. They are started when first needed; a forked child, which has none of them, starts its own.
class Team {
  public:
    Team() = default;
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;
    ~Team() { release(); }

    // Call job(worker) once for each of 0 .. n_workers - 1, 0 on the calling thread; fewer where no more threads can be
    // had. Must not throw. Calls from several threads wait for each other.
    void run(int n_workers, const std::function<void(int)>& job) {
        State& s = state();
        std::lock_guard<std::mutex> one_at_a_time(s.call);
        try {
            while ((int)s.threads.size() < n_workers - 1)
                s.threads.emplace_back(wait_for_jobs, std::ref(s), (int)s.threads.size() + 1, s.number);
        } catch (const std::exception&) {
            // No more threads, or no memory for them: those there are do the work.
        }
        const int n_helpers = std::min((int)s.threads.size(), n_workers - 1);
        if (n_helpers > 0) {
            std::lock_guard<std::mutex> guard(s.lock);
            s.job = &job;
            s.n_helpers = s.n_running = n_helpers;
            ++s.number;
            s.begins.notify_all();
        }
        job(0);
        std::unique_lock<std::mutex> guard(s.lock);
        s.ended.wait(guard, [&] { return s.n_running == 0; });
    }

    // End the threads; those of the process that this one was forked from are not here to be ended.
    void release() {
        if (state_ && process_ != this_process()) state_.release();
        if (!state_) return;
        {
            std::lock_guard<std::mutex> guard(state_->lock);
            state_->stop = true;
            state_->begins.notify_all();
        }
        for (std::thread& thread : state_->threads) thread.join();
        state_.reset();
    }

  private:
    struct State {
        std::mutex call, lock; // the second for all that follows
        std::condition_variable begins, ended;
        const std::function<void(int)>* job = nullptr;
        int64_t number = 0; // of the job
        int n_helpers = 0, n_running = 0;
        bool stop = false;
        std::vector<std::thread> threads;
    };

    static void wait_for_jobs(State& s, int worker, int64_t seen) {
        std::unique_lock<std::mutex> guard(s.lock);
        while (true) {
            s.begins.wait(guard, [&] { return s.stop || s.number != seen; });
            if (s.stop) return;
            seen = s.number;
            if (worker > s.n_helpers) continue;
            const std::function<void(int)>* job = s.job;
            guard.unlock();
            (*job)(worker);
            guard.lock();
            if (--s.n_running == 0) s.ended.notify_one();
        }
    }

    State& state() {
        std::lock_guard<std::mutex> guard(making_);
        if (state_ && process_ != this_process()) state_.release();
        if (!state_) {
            state_ = std::make_unique<State>();
            process_ = this_process();
        }
        return *state_;
    }

    static int this_process() {
#ifdef _WIN32
        return 0;
#else
        return (int)getpid();
#endif
    }

    std::mutex making_;
    std::unique_ptr<State> state_;
    int process_ = 0;
};

// Call body(item, worker) for every item, each once, on up to n_threads threads, the calling one included. Which thread
// gets which item is not fixed, so an item's results must not depend on it. Throws Interrupted when poll says so.
template <typename Body>
void parallel_for(Team& team, int64_t n_items, int n_threads, const Poll& poll, const Body& body) {
    using Clock = std::chrono::steady_clock;
    std::atomic<int64_t> next{0};
    std::atomic<bool> stop{false};
    std::exception_ptr error;
    std::mutex error_lock;
    team.run((int)std::min<int64_t>(n_threads, n_items), [&](int worker) {
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
    });
    if (error) std::rethrow_exception(error);
    if (stop) throw Interrupted{};
}

} // namespace harmonax
