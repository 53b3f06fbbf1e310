internal import CShims
internal import Dispatch
internal import Synchronization

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// Threads for work that blocks: reading a socket, waiting for a child, training.
public enum OSThread {
    private final class Body: Sendable {
        let name: String
        let run: @Sendable () -> Void
        init(name: String, run: @escaping @Sendable () -> Void) {
            self.name = name
            self.run = run
        }
    }

    /// Starts a detached thread with 8 MiB of stack.
    ///
    /// - Parameter name: shown by `top -H` and `gdb`; Linux keeps the first 15 bytes.
    public static func start(name: String, _ body: @escaping @Sendable () -> Void) {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setstacksize(&attributes, 8 << 20)
        pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        var thread = pthread_t()
        let started = pthread_create(
            &thread,
            &attributes,
            { context in
                guard let context else { return nil }
                let body = Unmanaged<Body>.fromOpaque(context).takeRetainedValue()
                coord_set_thread_name(body.name)
                body.run()
                return nil
            },
            Unmanaged.passRetained(Body(name: String(name.prefix(15)), run: body)).toOpaque()
        )
        pthread_attr_destroy(&attributes)
        precondition(started == 0, "pthread_create failed with errno \(started)")
    }

    /// Lets time pass between two tries of something that failed; never a way to wait for an event.
    public static func pause(seconds: Double) {
        let end = Machine.monotonicSeconds + seconds
        while true {
            let left = end - Machine.monotonicSeconds
            guard left > 0 else { return }
            usleep(UInt32(min(left, 0.9) * 1e6))
        }
    }
}

/// A queue between threads: any thread puts, one thread takes and waits.
public final class Mailbox<Message: Sendable>: Sendable {
    private let messages = Mutex<[Message]>([])
    private let filled = DispatchSemaphore(value: 0)

    /// Starts empty.
    public init() {}

    /// Adds a message at the end.
    public func put(_ message: Message) {
        messages.withLock { $0.append(message) }
        filled.signal()
    }

    /// Waits for the first message and takes it.
    public func take() -> Message {
        while true {
            filled.wait()
            if let message = messages.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) { return message }
        }
    }

    /// Waits for the first message at most so long; nil when none came.
    public func take(milliseconds: Int) -> Message? {
        guard filled.wait(timeout: .now() + .milliseconds(milliseconds)) == .success else { return nil }
        return messages.withLock { $0.isEmpty ? nil : $0.removeFirst() }
    }

    /// Takes the messages at the front as long as `belongs` holds, at most so many, without waiting for any.
    public func take(atMost limit: Int, while belongs: (Message) -> Bool) -> [Message] {
        let taken = messages.withLock { messages in
            let front = Array(messages.prefix(limit).prefix(while: belongs))
            messages.removeFirst(front.count)
            return front
        }
        // Each was announced, or is about to be.
        for _ in taken { filled.wait() }
        return taken
    }
}
