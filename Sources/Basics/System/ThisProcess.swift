#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#endif

/// This process as a whole.
public enum ThisProcess {
    /// Ends it, with what was printed written out.
    ///
    /// Not by `exit`: that lets each library free what it keeps for the whole process, while threads of ours still work
    /// with it (an SSH connection that is being closed, a matrix product). Such a thread crashes, and the process ends by
    /// a signal though all went well. Nothing here needs those clean-ups: the kernel takes memory and descriptors back.
    public static func end(_ code: Int32) -> Never {
        fflush(nil)
        _exit(code)
    }

    /// Ends it, with a code of ours.
    public static func end(_ code: ExitCode) -> Never { end(code.rawValue) }
}
