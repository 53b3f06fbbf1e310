internal import Glibc

/// The signal that a write to a pipe or socket without a reader sends.
enum PipeSignal {
    /// Makes such a write an error number: a command or host that hangs up must not end this process.
    ///
    /// Whoever has a handler of their own keeps it.
    static func ignore() {
        var present = sigaction()
        if sigaction(SIGPIPE, nil, &present) == 0, present.__sigaction_handler.sa_handler == nil {
            signal(SIGPIPE, SIG_IGN)
        }
    }
}
