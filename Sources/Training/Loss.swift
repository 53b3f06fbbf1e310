internal import Basics
internal import Tensors

/// What a wrong answer costs: a kind and the weights of the classes.
struct Loss: Sendable {
    /// Nil is the plain softmax cross-entropy, whose kernel is its own.
    let kind: LossKind?
    /// `[K]`; nil for ones.
    let classWeights: [Float]?

    static let knownTypes = ["bce", "cross_entropy", "focal", "mse"]
    static let plain = Loss(kind: nil, classWeights: nil)

    private init(kind: LossKind?, classWeights: [Float]?) {
        self.kind = kind
        self.classWeights = classWeights
    }

    /// - Throws: ``TrainingError`` `.badSpec`.
    init(_ spec: TypedSpec?, classCount: Int) throws {
        guard let spec else {
            self = .plain
            return
        }
        var reader = SpecReader(spec, kind: "loss")
        let kind: LossKind
        switch spec.type {
        case "cross_entropy":
            let smoothing = try reader.number("label_smoothing", default: 0, 0...1)
            kind = .crossEntropy(smoothing: Float(smoothing))
        case "focal": kind = .focal(gamma: Float(try reader.number("gamma", default: 2, 0...100)))
        case "mse": kind = .meanSquares
        case "bce": kind = .binary
        default: throw SpecReader.unknownType(spec, kind: "loss", known: Self.knownTypes)
        }
        let weights = try reader.numbers("class_weights", 0...1e6)
        try reader.finish()
        guard weights == nil || weights?.count == classCount else {
            throw TrainingError(
                .badSpec,
                "loss \(spec.type): class_weights has \(weights?.count ?? 0) numbers, there are \(classCount) classes"
            )
        }
        classWeights = weights?.map { Float($0) }
        self.kind = kind == .crossEntropy(smoothing: 0) && weights == nil ? nil : kind
    }

    /// The loss summed over the rows, its gradient in `d`, and the rows that are right.
    func compute(
        _ d: UnsafeMutablePointer<Float>,
        _ logits: UnsafePointer<Float>,
        _ labels: UnsafePointer<Int32>,
        rows: Int,
        classes: Int,
        kernels: Kernels
    ) -> (loss: Double, correct: Int) {
        guard let kind else {
            return kernels.crossEntropy(d, logits, labels, rows: rows, classes: classes)
        }
        guard let classWeights else {
            return kernels.loss(kind, d, logits, labels, classWeights: nil, rows: rows, classes: classes)
        }
        return classWeights.withUnsafeBufferPointer {
            kernels.loss(
                kind,
                d,
                logits,
                labels,
                classWeights: $0.baseAddress,
                rows: rows,
                classes: classes
            )
        }
    }
}
