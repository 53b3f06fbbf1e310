internal import Basics
internal import Tensors

/// Shape of one sample between two layers.
enum SampleShape: Hashable, Sendable {
    /// Activations `[B, features]`.
    case flat(Int)
    /// Activations `[C, B, H, W]`.
    case planes(channels: Int, height: Int, width: Int)
    /// Activations `[B, T, C]`.
    case tokens(length: Int, features: Int)

    /// Numbers in one sample.
    var count: Int {
        switch self {
        case .flat(let features): features
        case .planes(let channels, let height, let width): channels * height * width
        case .tokens(let length, let features): length * features
        }
    }
}

/// A named slice of the arenas that hold parameters, gradients and optimizer state.
public struct ParameterSlice: Hashable, Sendable {
    /// The name, as in a PyTorch state dict (`conv1.weight`).
    public var name: String
    /// `[out, in]`, `[out, in, kernel, kernel]` or `[out]`.
    public var shape: [Int]
    /// Where the slice starts, a multiple of 16 numbers.
    public var offset: Int
    /// How the slice starts.
    public var start: Start
    /// Set for running statistics, which are not trained: how far one step moves them, in 0...1.
    public var statisticMomentum: Float?

    /// How a slice starts.
    public enum Start: Hashable, Sendable {
        /// U(±1/√fan-in), PyTorch's default for dense and convolution layers; the inputs that one output sums.
        case fanIn(Int)
        /// Normal with this deviation.
        case normal(Float)
        /// The same number everywhere.
        case constant(Float)
    }

    /// A slice; running statistics name their momentum.
    public init(name: String, shape: [Int], offset: Int, start: Start, statisticMomentum: Float? = nil) {
        self.name = name
        self.shape = shape
        self.offset = offset
        self.start = start
        self.statisticMomentum = statisticMomentum
    }

    /// Numbers in the slice.
    public var count: Int { shape.reduce(1, *) }
}

/// What a pass needs to know when it trains.
struct TrainingPass {
    /// `[N]`: where batch statistics go; backward overwrites the rest.
    let gradients: UnsafeMutablePointer<Float>
    /// The run's random numbers.
    let random: RandomSource
    /// The step that the pass belongs to.
    let step: Int
    /// The place of the first sample in the step's batch.
    let position: Int
    /// In what numbers products are computed.
    var precision = Precision.float32
    /// Asked between two layers, from then on the pass may be dropped.
    var isWanted: () -> Bool = { true }
    /// Told of each node when backward is done with it and all behind it: their gradients are final.
    var didPass: (_ node: Int) -> Void = { _ in }
}

/// What a layer works with during one pass of one lane.
struct LayerPass {
    let kernels: Kernels
    /// Samples in the microbatch, > 0.
    let count: Int
    /// The arena of parameters; slices say where.
    let weights: UnsafePointer<Float>
    /// Scratch of the lane, as many numbers as the layer that asks for most.
    let scratch: UnsafeMutablePointer<Float>
    /// The layer's own bytes from forward to backward, `placesPerSample` a sample.
    let places: UnsafeMutablePointer<UInt8>
    /// The layer's own numbers from forward to backward, `savedCount(samples:)`.
    let saved: UnsafeMutablePointer<Float>
    /// Nil when the pass only evaluates.
    let training: TrainingPass?
    /// The threads that may share the work.
    var team = Team.alone
}

extension LayerPass {
    /// Calls `body` with the first place and the count of numbers that together are one output of each sample.
    func divide(_ output: SampleShape, _ body: (_ first: Int, _ count: Int) -> Void) {
        team.divide(count * output.count, multiple: 64) { range, _ in body(range.lowerBound, range.count) }
    }

    /// Whether operands of products are rounded to bfloat16; what only evaluates is exact.
    var rounds: Bool { training?.precision == .bf16 }

    /// `c = a · b + beta · c` as ``BLAS/multiply(_:_:_:_:_:lda:_:_:ldb:beta:_:ldc:)``, in the precision of the pass.
    ///
    /// What only evaluates is exact: a model is judged and served in single precision.
    func multiply(
        _ m: Int,
        _ n: Int,
        _ k: Int,
        _ a: UnsafePointer<Float>,
        _ transposeA: BLAS.Transposition,
        lda: Int,
        _ b: UnsafePointer<Float>,
        _ transposeB: BLAS.Transposition,
        ldb: Int,
        beta: Float = 0,
        _ c: UnsafeMutablePointer<Float>,
        ldc: Int
    ) {
        if rounds {
            kernels.multiply(
                m,
                n,
                k,
                a,
                transposeA,
                lda: lda,
                b,
                transposeB,
                ldb: ldb,
                beta: beta,
                c,
                ldc: ldc,
                rounds: true
            )
        } else {
            BLAS.multiply(m, n, k, a, transposeA, lda: lda, b, transposeB, ldb: ldb, beta: beta, c, ldc: ldc)
        }
    }
}

/// What a layer finds on the way back.
struct Backward {
    /// What forward read.
    let x: UnsafePointer<Float>
    /// What forward wrote.
    let y: UnsafePointer<Float>
    /// The gradient at `y`, which a layer may overwrite.
    let dy: UnsafeMutablePointer<Float>
    /// Where the gradient at `x` goes; nil when nobody asks for it.
    let dx: UnsafeMutablePointer<Float>?
    /// The arena of gradients; a layer overwrites its slices with sums over B.
    let gradients: UnsafeMutablePointer<Float>
}

/// One layer: forward and backward side by side.
///
/// What a layer computes depends only on its inputs and on the number of samples, never on the thread.
protocol Layer: Sendable {
    /// Shape of one output sample.
    var output: SampleShape { get }
    /// True when `y` is `x` and `dx` is `dy`.
    var isInPlace: Bool { get }
    /// The slices that the layer owns.
    var parameters: [ParameterSlice] { get }
    /// Numbers of scratch for so many samples and threads at most.
    func scratchCount(samples: Int, threads: Int) -> Int
    /// Bytes a sample that live from forward to backward.
    var placesPerSample: Int { get }
    /// Numbers that live from forward to backward.
    func savedCount(samples: Int) -> Int

    /// Computes `y` from `x`.
    func forward(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pass: LayerPass)

    /// Computes the gradient at the input, when asked for, and at the layer's slices.
    func backward(_ way: Backward, _ pass: LayerPass)
}

extension Layer {
    var isInPlace: Bool { false }
    var parameters: [ParameterSlice] { [] }
    func scratchCount(samples: Int, threads: Int) -> Int { 0 }
    var placesPerSample: Int { 0 }
    func savedCount(samples: Int) -> Int { 0 }
}
