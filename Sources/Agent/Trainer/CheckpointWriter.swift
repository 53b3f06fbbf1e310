internal import Basics
internal import ContentStore
internal import Dispatch
internal import Training
internal import Wire

/// Brings checkpoints into the host's store beside the training: one at a time, in order.
final class CheckpointWriter: Sendable {
    private enum Job: Sendable {
        case write(Checkpoint, EpochMetric)
        case finish
    }

    private let jobs = Mailbox<Job>()
    private let finished = DispatchSemaphore(value: 0)
    /// Two checkpoints in memory at most: the one being written and the next.
    private let room = DispatchSemaphore(value: 0)

    init(store: ChunkStore, report: @escaping @Sendable (TrainerReport) -> Void) {
        // Begun at 0: a semaphore that is freed below the value it began with ends the process.
        for _ in 0..<2 { room.signal() }
        OSThread.start(name: "checkpoint") { [jobs, finished, room] in
            while case .write(let checkpoint, let metric) = jobs.take() {
                do {
                    let files = try checkpoint.files.map { try store.add($0.bytes, name: $0.name) }
                    let manifest = try store.putManifest(kind: "checkpoint", files: files)
                    report(
                        .checkpoint(
                            manifest: manifest,
                            weights: checkpoint.weightsDigest,
                            size: files.reduce(0) { $0 + $1.size },
                            metric: metric
                        )
                    )
                } catch {
                    // Training goes on; the next epoch tries again.
                    let text = (error as? any ExplainedError)?.message ?? "\(error)"
                    report(.checkpointFailed(epoch: metric.epoch, message: text))
                }
                room.signal()
            }
            finished.signal()
        }
    }

    /// Queues a checkpoint; waits only when two are under way already.
    func write(_ checkpoint: Checkpoint, metric: EpochMetric) {
        room.wait()
        jobs.put(.write(checkpoint, metric))
    }

    /// Waits until all is written.
    func finish() {
        jobs.put(.finish)
        finished.wait()
    }
}
