import Basics
import ContentStore
import CoordTesting
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

@Suite struct FullDiskTests {
    /// On a real, full file system where we may mount one (root), else at the limit of a file's size.
    @Test(.timeLimit(.minutes(5)))
    func aFullDiskIsAnErrorOfTheDiskAndLeavesNothingHalfWritten() async {
        await #expect(processExitsWith: .success) {
            try withTemporaryDirectory { folder in
                let isMounted =
                    enterPrivateMounts() == 0
                    && mount("none", "/", nil, UInt(MS_REC) | UInt(MS_PRIVATE), nil) == 0
                    && mount("coord-test", folder, "tmpfs", 0, "size=2m") == 0
                let store = try ChunkStore(directory: folder + "/store")
                let small = try store.put([1, 2, 3])
                if !isMounted {
                    signal(SIGXFSZ, SIG_IGN)
                    var limit = rlimit(rlim_cur: 300_000, rlim_max: 300_000)
                    precondition(setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0)
                }
                let big = pseudoRandomBytes(12 << 20, seed: 5)
                do {
                    _ = try store.putManifest(kind: "test", files: [store.add(big, name: "big")])
                    preconditionFailure("12 MiB fitted")
                } catch let error as FileError {
                    precondition(error.exitCode == .cannotWrite, "\(error)")
                    precondition(error.errno == (isMounted ? ENOSPC : EFBIG), "\(error)")
                    precondition(!isMounted || error.message.hasSuffix("no space left on device"), "\(error)")
                }
                let leftovers = try Files.list(folder + "/store/tmp") + store.manifests().map(\.hex)
                precondition(leftovers.isEmpty, "\(leftovers)")
                let problems = try store.fsck()
                precondition(problems.isEmpty, "\(problems)")
                let read = try store.get(small)
                precondition(read == [1, 2, 3])
                if isMounted { umount2(folder, Int32(MNT_DETACH)) }
            }
        }
    }
}

/// `unshare(CLONE_NEWNS)`, which the C library's module doesn't show to Swift; not 0 where it is not allowed.
private func enterPrivateMounts() -> Int32 {
    guard let address = dlsym(nil, "unshare") else { return -1 }
    // Safety: the C declaration is `int unshare(int)`.
    let unshare = unsafeBitCast(address, to: (@convention(c) (Int32) -> Int32).self)
    return unshare(0x20000)
}
