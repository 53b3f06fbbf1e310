internal import CShims
internal import Dispatch

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// One operating-system thread that runs one function.
final class CommThread: Sendable {
    private let done = DispatchSemaphore(value: 0)
    private let name: String
    private let body: @Sendable () -> Void

    /// Starts the thread.
    ///
    /// - Parameter name: at most 15 bytes, for `top -H` and `gdb`.
    init(name: String, _ body: @escaping @Sendable () -> Void) throws(CollectivesError) {
        self.name = name
        self.body = body
        var thread = pthread_t()
        let context = Unmanaged.passRetained(self)
        let started = pthread_create(
            &thread,
            nil,
            { context in
                guard let context else { return nil }
                let this = Unmanaged<CommThread>.fromOpaque(context).takeRetainedValue()
                coord_set_thread_name(this.name)
                this.body()
                this.done.signal()
                return nil
            },
            context.toOpaque()
        )
        guard started == 0 else {
            context.release()
            throw CollectivesError(.system, "no thread for \(name) (\(systemText(started)))")
        }
        _ = pthread_detach(thread)
    }

    /// Waits until the function has returned; may be called more than once, never from the thread itself.
    func join() {
        done.wait()
        done.signal()
    }
}

/// A set of descriptors to wait on.
struct PollSet {
    private(set) var entries: [pollfd] = []

    /// Forgets all descriptors, keeps the memory.
    mutating func clear() { entries.removeAll(keepingCapacity: true) }

    /// Adds a descriptor; the end of a stream is always reported.
    mutating func add(_ descriptor: Int32, read: Bool, write: Bool) {
        let events = (read ? POLLIN : 0) | (write ? POLLOUT : 0) | Int32(bitPattern: 0x2000)  // POLLRDHUP
        entries.append(pollfd(fd: descriptor, events: Int16(events), revents: 0))
    }

    /// Looks for a short time without falling asleep; false when none was ready.
    mutating func waitAwake(for duration: Duration) -> Bool {
        let end = ContinuousClock.now + duration
        while true {
            if poll(&entries, nfds_t(entries.count), 0) > 0 { return true }
            // Who yields where others compute comes back after milliseconds.
            guard ContinuousClock.now < end else { return false }
            coord_yield()
        }
    }

    /// Waits until one is ready or the time has come.
    mutating func wait(until time: ContinuousClock.Instant) {
        let left = ContinuousClock.now.duration(to: time).components
        let milliseconds = left.seconds * 1000 + left.attoseconds / 1_000_000_000_000_000 + 1
        _ = poll(&entries, nfds_t(entries.count), Int32(clamping: max(0, min(milliseconds, 60_000))))
    }

    /// Whether there is something to read, an end included.
    func isReadable(_ index: Int) -> Bool { entries[index].revents & ~Int16(POLLOUT) != 0 }
    /// Whether bytes can be written, or an error waits.
    func isWritable(_ index: Int) -> Bool { entries[index].revents & Int16(POLLOUT | POLLERR | POLLHUP) != 0 }
    /// Whether the other side has ended or the stream broke.
    func hasEnded(_ index: Int) -> Bool {
        entries[index].revents & (Int16(POLLERR | POLLHUP | POLLNVAL) | 0x2000) != 0
    }
}
