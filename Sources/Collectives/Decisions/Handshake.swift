internal import Basics

/// The three messages that open a link: each side proves the generation's secret over both challenges.
///
/// Dialler → listener `hello`, listener → dialler `reply` (with its proof), dialler → listener `final` (with its).
/// Fixed sizes, so nothing is allocated on a stranger's word. Both proofs cover every byte said before, the run's
/// id, the generation, both ranks and the direction.
enum Handshake {
    static let helloBytes = 96
    static let replyBytes = 164
    static let finalBytes = 96
    private static let magic: UInt32 = 0x484C_4343  // "CCLH"
    private static let version: UInt32 = 2

    /// Who a dialler says it is.
    struct Hello: Hashable, Sendable {
        var run: UInt64
        var generation: UInt32
        var dialler: UInt32
        var listener: UInt32
        /// The bytes may be read by others on the way.
        var wantsSealing: Bool
        var challenge: [UInt8]
        var plan: Digest

        var bytes: [UInt8] {
            var writer = ByteWriter(capacity: helloBytes)
            writer.write(magic)
            writer.write(version)
            writer.write(run)
            writer.write(generation)
            writer.write(dialler)
            writer.write(listener)
            writer.write(UInt32(wantsSealing ? 1 : 0))
            writer.write(raw: challenge)
            writer.write(plan)
            return writer.bytes
        }

        /// Reads what a stranger sent; nil when it makes no sense.
        init?(_ bytes: [UInt8]) {
            var reader = ByteReader(bytes)
            guard bytes.count == helloBytes, (try? reader.read(UInt32.self)) == magic,
                (try? reader.read(UInt32.self)) == version, let run = try? reader.read(UInt64.self),
                let generation = try? reader.read(UInt32.self), let dialler = try? reader.read(UInt32.self),
                let listener = try? reader.read(UInt32.self), let flags = try? reader.read(UInt32.self),
                flags <= 1,
                let challenge = try? reader.read(count: 32), let plan = try? reader.readDigest()
            else { return nil }
            self.init(
                run: run,
                generation: generation,
                dialler: dialler,
                listener: listener,
                wantsSealing: flags == 1,
                challenge: Array(challenge),
                plan: plan
            )
        }

        init(
            run: UInt64,
            generation: UInt32,
            dialler: UInt32,
            listener: UInt32,
            wantsSealing: Bool = false,
            challenge: [UInt8],
            plan: Digest
        ) {
            self.run = run
            self.generation = generation
            self.dialler = dialler
            self.listener = listener
            self.wantsSealing = wantsSealing
            self.challenge = challenge
            self.plan = plan
        }
    }

    /// What both sides know of the generation.
    struct Context: Sendable {
        var run: RunID
        var generation: UInt32
        var rank: Int
        /// A digest of lanes and members: all must have been given the same plan.
        var plan: Digest
        var secret: Redacted<[UInt8]>
        var state: MemberState
    }

    /// The first message, to member `listener`.
    static func hello(
        _ context: Context,
        to listener: Int,
        wantsSealing: Bool = false,
        challenge: [UInt8]
    ) -> Hello {
        Hello(
            run: FrameHeader.runNumber(context.run),
            generation: context.generation,
            dialler: UInt32(context.rank),
            listener: UInt32(listener),
            wantsSealing: wantsSealing,
            challenge: challenge,
            plan: context.plan
        )
    }

    /// The listener's answer.
    static func reply(
        _ context: Context,
        to hello: Hello,
        wantsSealing: Bool = false,
        challenge: [UInt8]
    ) -> [UInt8] {
        var writer = ByteWriter(capacity: replyBytes)
        writer.write(magic)
        writer.write(version)
        writer.write(raw: challenge)
        write(context.state, to: &writer)
        writer.write(context.plan)
        writer.write(UInt32(wantsSealing || hello.wantsSealing ? 1 : 0))
        let code = proof(context, "listener", [hello.bytes, writer.bytes])
        return writer.bytes + Sealing.authenticationCode(for: code, key: context.secret)
    }

    /// The dialler checks the answer.
    ///
    /// - Returns: the listener's state, nil when the secret was not proven.
    static func check(reply: [UInt8], _ context: Context, hello: Hello) -> (state: MemberState, plan: Digest)?
    {
        guard reply.count == replyBytes, isOurs(reply) else { return nil }
        let said = Array(reply[..<(replyBytes - 32)])
        let message = proof(context, "listener", [hello.bytes, said])
        guard Sealing.isValid(Array(reply[(replyBytes - 32)...]), for: message, key: context.secret) else {
            return nil
        }
        guard let state = state(said[40..<96]), let plan = Digest(raw: said[96..<128]) else { return nil }
        return (state, plan)
    }

    /// Whether all that follows is sealed: one side that wants it is enough, and the proofs cover both words.
    static func isSealed(hello: Hello, reply: [UInt8]) -> Bool { hello.wantsSealing || reply[128] != 0 }

    /// The keys of both directions, new for each connection.
    static func keys(
        _ context: Context,
        hello: Hello,
        reply: [UInt8]
    ) -> (dialler: RecordKey, listener: RecordKey) {
        func key(_ speaker: String) -> RecordKey {
            var writer = ByteWriter()
            writer.write("coord collectives link")
            writer.write(context.run.text)
            writer.write(hello.generation)
            writer.write(hello.dialler)
            writer.write(hello.listener)
            writer.write(speaker)
            return RecordKey(
                secret: context.secret,
                salt: hello.challenge + reply[8..<40],
                purpose: writer.bytes
            )
        }
        return (key("dialler"), key("listener"))
    }

    /// The dialler's proof.
    static func final(_ context: Context, hello: Hello, reply: [UInt8]) -> [UInt8] {
        var writer = ByteWriter(capacity: finalBytes)
        writer.write(magic)
        writer.write(version)
        write(context.state, to: &writer)
        let message = proof(context, "dialler", [hello.bytes, reply, writer.bytes])
        return writer.bytes + Sealing.authenticationCode(for: message, key: context.secret)
    }

    /// The listener checks it.
    ///
    /// - Returns: the dialler's state, nil when the secret was not proven.
    static func check(final: [UInt8], _ context: Context, hello: Hello, reply: [UInt8]) -> MemberState? {
        guard final.count == finalBytes, isOurs(final) else { return nil }
        let said = Array(final[..<(finalBytes - 32)])
        let message = proof(context, "dialler", [hello.bytes, reply, said])
        guard Sealing.isValid(Array(final[(finalBytes - 32)...]), for: message, key: context.secret) else {
            return nil
        }
        return state(said[8..<64])
    }

    private static func proof(_ context: Context, _ side: String, _ said: [[UInt8]]) -> [UInt8] {
        var writer = ByteWriter()
        writer.write("coord collectives \(side)")
        writer.write(context.run.text)
        for part in said { writer.write(raw: part) }
        return writer.bytes
    }

    private static func isOurs(_ message: [UInt8]) -> Bool {
        var reader = ByteReader(message)
        return (try? reader.read(UInt32.self)) == magic && (try? reader.read(UInt32.self)) == version
    }

    private static func write(_ state: MemberState, to writer: inout ByteWriter) {
        writer.write(state.committed)
        // Bit 0: a result follows; bit 1: the member joins.
        writer.write(UInt64(state.ready == nil ? 0 : 1) | (state.isJoining ? 2 : 0))
        writer.write(state.ready?.operation ?? 0)
        writer.write(raw: state.ready?.digest.raw ?? Array(repeating: 0, count: 32))
    }

    private static func state(_ bytes: ArraySlice<UInt8>) -> MemberState? {
        var reader = ByteReader(bytes)
        guard let committed = try? reader.read(UInt64.self), let flag = try? reader.read(UInt64.self),
            let operation = try? reader.read(UInt64.self), let digest = try? reader.readDigest(),
            committed < UInt64.max / 2, operation < UInt64.max / 2, flag <= 2
        else { return nil }
        if flag == 2 { return .joining }
        return MemberState(
            committed: committed,
            ready: flag == 1 ? MemberState.Ready(operation: operation, digest: digest) : nil
        )
    }
}
