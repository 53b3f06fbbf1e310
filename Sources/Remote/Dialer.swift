internal import Basics
internal import Glibc
internal import Synchronization

/// Opens TCP connections, each phase with its own deadline and name in the error.
enum Dialer {
    /// True for an IP address, which needs no name server.
    static func isNumeric(_ address: String) -> Bool {
        var four = in_addr()
        var six = in6_addr()
        let bare = address.split(separator: "%", maxSplits: 1).first.map(String.init) ?? address
        return inet_pton(AF_INET, address, &four) == 1 || inet_pton(AF_INET6, bare, &six) == 1
    }

    /// Connects to the first address that answers.
    ///
    /// - Returns: a non-blocking socket that notices a dead peer within 45 s.
    /// - Throws: ``RemoteError`` of the phases `resolve` and `connect`.
    static func connect(
        _ endpoint: ResolvedEndpoint,
        timeouts: SSHTimeouts,
        deadline: Deadline
    ) throws -> Int32 {
        let addresses = try resolve(endpoint, deadline: deadline.limited(to: timeouts.resolve))
        let deadline = deadline.limited(to: timeouts.connect)
        var last = ETIMEDOUT
        for address in addresses {
            switch attempt(address, deadline: deadline) {
            case .success(let socket): return socket
            case .failure(let error): last = error.number
            }
        }
        throw failure(endpoint, errno: last)
    }

    private struct Errno: Error { let number: Int32 }

    private static func attempt(_ address: [UInt8], deadline: Deadline) -> Result<Int32, Errno> {
        let family = address.withUnsafeBytes { $0.loadUnaligned(as: sockaddr.self).sa_family }
        let kind = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        let descriptor = socket(Int32(family), kind, 0)
        guard descriptor >= 0 else { return .failure(Errno(number: errno)) }
        let started = address.withUnsafeBytes { bytes in
            bytes.withMemoryRebound(to: sockaddr.self) {
                systemConnect(descriptor, $0.baseAddress, bytes.count)
            }
        }
        var problem = started == 0 ? 0 : errno
        if problem == EINPROGRESS {
            problem = ETIMEDOUT
            while !deadline.hasPassed {
                var watched = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                guard poll(&watched, 1, deadline.milliseconds) > 0 else { continue }
                var length = socklen_t(MemoryLayout<Int32>.size)
                getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &problem, &length)
                break
            }
        }
        guard problem == 0 else {
            close(descriptor)
            return .failure(Errno(number: problem))
        }
        // A dead peer is noticed, and a NAT on the way remembers us, also while nobody uses the connection.
        set(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
        set(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1)
        set(descriptor, Int32(IPPROTO_TCP), TCP_KEEPIDLE, 15)
        set(descriptor, Int32(IPPROTO_TCP), TCP_KEEPINTVL, 15)
        set(descriptor, Int32(IPPROTO_TCP), TCP_KEEPCNT, 3)
        set(descriptor, Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, 45_000)
        // The kernel makes room for what a reader wants to wait for, and leaves it so, up to tcp_rmem: a download then
        // does not begin with 64 KB a round trip. SO_RCVBUF would end the kernel's own growing, at rmem_max.
        set(descriptor, SOL_SOCKET, SO_RCVLOWAT, 4 << 20)
        set(descriptor, SOL_SOCKET, SO_RCVLOWAT, 1)
        return .success(descriptor)
    }

    private static func set(_ descriptor: Int32, _ level: Int32, _ option: Int32, _ value: Int32) {
        var value = value
        setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
    }

    private static func failure(_ endpoint: ResolvedEndpoint, errno: Int32) -> RemoteError {
        let code: RemoteError.Code =
            switch errno {
            case ECONNREFUSED: .connectionRefused
            case ETIMEDOUT: .timedOut
            default: .unreachable
            }
        let reason = code == .timedOut ? "no answer in time (phase connect)" : SystemError.text(errno)
        return RemoteError(
            host: endpoint.host,
            phase: .connect,
            code: code,
            message: "cannot connect to \(endpoint.name) (\(endpoint.place)): \(reason)",
            hint: "check that the host is on and the port is right: `\(endpoint.command)`"
        )
    }

    /// What the name server's thread leaves behind; it may come after we gave up.
    private final class Answer: Sendable {
        let addresses = Mutex<Result<[[UInt8]], Errno>?>(nil)
    }

    /// Raw socket addresses of a host, in the system's order.
    ///
    /// getaddrinfo(3) has no deadline: names are looked up on a thread of their own, left behind when late.
    private static func resolve(_ endpoint: ResolvedEndpoint, deadline: Deadline) throws -> [[UInt8]] {
        let host = endpoint.address
        let port = endpoint.port
        let answer = Answer()
        if isNumeric(host) {
            answer.addresses.withLock { $0 = lookUp(host, port, flags: AI_NUMERICHOST) }
        } else {
            var ends: [Int32] = [-1, -1]
            guard makePipe(&ends) == 0 else { throw failure(endpoint, errno: errno) }
            let writing = ends[1]
            defer { close(ends[0]) }
            OwnThread.start("coord-resolve") {
                let found = lookUp(host, port, flags: 0)
                answer.addresses.withLock { $0 = found }
                close(writing)
            }
            while !deadline.hasPassed {
                var watched = pollfd(fd: ends[0], events: Int16(POLLIN), revents: 0)
                if poll(&watched, 1, deadline.milliseconds) > 0 { break }
            }
        }
        switch answer.addresses.withLock({ $0 }) {
        case .success(let addresses)? where !addresses.isEmpty: return addresses
        case nil:
            throw RemoteError(
                host: endpoint.host,
                phase: .resolve,
                code: .timedOut,
                message:
                    "cannot reach \(endpoint.name): no name server answered for \(host) in time (phase resolve)",
                hint: "check the name and the network, or write the IP address into the cluster file"
            )
        case .failure(let error)?:
            throw unresolvable(endpoint, gai_strerror(error.number).map { String(cString: $0) })
        case .success?: throw unresolvable(endpoint, nil)
        }
    }

    private static func unresolvable(_ endpoint: ResolvedEndpoint, _ reason: String?) -> RemoteError {
        RemoteError(
            host: endpoint.host,
            phase: .resolve,
            code: .unresolvable,
            message: "cannot reach \(endpoint.name): no address for \(endpoint.address): "
                + (reason ?? "none found").lowercased(),
            hint: "check `address:` in the cluster file, or the Host names in ~/.ssh/config"
        )
    }

    private static func lookUp(_ host: String, _ port: UInt16, flags: Int32) -> Result<[[UInt8]], Errno> {
        var hints = addrinfo()
        hints.ai_family = AF_UNSPEC
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = flags | AI_NUMERICSERV
        var list: UnsafeMutablePointer<addrinfo>?
        let code = getaddrinfo(host, String(port), &hints, &list)
        guard code == 0 else { return .failure(Errno(number: code)) }
        defer { freeaddrinfo(list) }
        var addresses: [[UInt8]] = []
        var next = list
        while let entry = next?.pointee {
            addresses.append(
                Array(UnsafeRawBufferPointer(start: entry.ai_addr, count: Int(entry.ai_addrlen)))
            )
            next = entry.ai_next
        }
        return .success(addresses)
    }
}

/// A pipe whose ends no child inherits.
///
/// Between the two steps another thread may start a child; `ChildProcess` closes in it all that it was not given.
func makePipe(_ ends: inout [Int32]) -> Int32 {
    guard pipe(&ends) == 0 else { return -1 }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    return 0
}

/// Threads that block in the system or in C.
enum OwnThread {
    /// Runs a function on a new thread and forgets it.
    ///
    /// Signals go to other threads: a write to a closed socket is an error number here, not the process's end.
    static func start(_ name: String, _ body: @escaping @Sendable () -> Void) {
        final class Box: Sendable {
            let body: @Sendable () -> Void
            init(_ body: @escaping @Sendable () -> Void) { self.body = body }
        }
        var all = sigset_t()
        var before = sigset_t()
        sigfillset(&all)
        pthread_sigmask(SIG_BLOCK, &all, &before)
        defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
        var thread = pthread_t()
        let started = pthread_create(
            &thread,
            nil,
            { context in
                if let context { Unmanaged<Box>.fromOpaque(context).takeRetainedValue().body() }
                return nil
            },
            Unmanaged.passRetained(Box(body)).toOpaque()
        )
        precondition(started == 0, "pthread_create of \(name) failed with errno \(started)")
        pthread_detach(thread)
    }
}

// Inside `Dialer` the name `connect` is ours.
private func systemConnect(_ descriptor: Int32, _ address: UnsafePointer<sockaddr>?, _ length: Int) -> Int32 {
    connect(descriptor, address, socklen_t(length))
}
