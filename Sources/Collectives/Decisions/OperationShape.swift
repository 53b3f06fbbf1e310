/// What the values of an operation are; each node of the lane tree is computed in this type.
public enum ElementType: UInt8, CaseIterable, Sendable {
    /// 4 bytes, IEEE single precision.
    case f32
    /// 2 bytes, the upper half of a float; each node is computed as floats and rounded to nearest even.
    case bf16
    /// 8 bytes, IEEE double precision.
    case f64
    /// 4 bytes, two's complement; sums wrap round.
    case i32

    /// Bytes of one value.
    public var byteCount: Int {
        switch self {
        case .bf16: 2
        case .f32, .i32: 4
        case .f64: 8
        }
    }
}

/// What a node of the lane tree does with the values below it.
public enum Reduction: UInt8, CaseIterable, Sendable {
    /// left + right.
    case sum
    /// The smaller one; the left one where they are equal or one is NaN.
    case min
    /// The larger one; the left one where they are equal or one is NaN.
    case max
}

/// What an operation does, the same for all members.
struct OperationForm: Hashable, Sendable {
    /// Which way values travel.
    enum Kind: Hashable {
        /// To their owners, who combine them, and back to all.
        case allReduce
        /// To their owners, who combine them.
        case reduceScatter
        /// From each member its segment to all.
        case allGather
        /// From one member to all.
        case broadcast(root: Int)
    }
    var kind = Kind.allReduce
    var type = ElementType.f32
    var reduction = Reduction.sum

    /// Contributions travel to the owners of segments and are combined there.
    var combines: Bool { kind == .allReduce || kind == .reduceScatter }
    /// Segments travel from their owners to all.
    var returns: Bool { kind != .reduceScatter }

    /// How N values are cut.
    ///
    /// - Parameters:
    ///   - owners: for each member whether it combines a segment.
    ///   - buckets: see ``Segmentation/init(elements:owners:elementBytes:buckets:)``.
    func segmentation(elements: Int, owners: [Bool], buckets: [Range<Int>] = []) -> Segmentation {
        let holders =
            switch kind {
            case .allReduce, .reduceScatter: owners
            case .allGather: owners.map { _ in true }
            case .broadcast(let root): owners.indices.map { $0 == root }
            }
        return Segmentation(
            elements: elements,
            owners: holders,
            elementBytes: type.byteCount,
            buckets: buckets
        )
    }

    /// The number in a frame's header and in memory; 0 = all-reduce, sum of f32.
    var wire: UInt32 {
        let (number, root): (UInt32, UInt32) =
            switch kind {
            case .allReduce: (0, 0)
            case .reduceScatter: (1, 0)
            case .allGather: (2, 0)
            case .broadcast(let root): (3, UInt32(root))
            }
        return UInt32(type.rawValue) | UInt32(reduction.rawValue) << 4 | number << 8 | root << 16
    }

    init(_ kind: Kind = .allReduce, _ type: ElementType = .f32, by reduction: Reduction = .sum) {
        (self.kind, self.type, self.reduction) = (kind, type, reduction)
    }

    /// Reads a number that another member sent; nil when it is none of a group with so many members.
    init?(wire: UInt32, members: Int) {
        let root = Int(wire >> 16)
        guard let type = ElementType(rawValue: UInt8(wire & 15)),
            let reduction = Reduction(rawValue: UInt8(wire >> 4 & 15)), root < members
        else { return nil }
        switch wire >> 8 & 255 {
        case 0: self.init(.allReduce, type, by: reduction)
        case 1: self.init(.reduceScatter, type, by: reduction)
        case 2: self.init(.allGather, type, by: reduction)
        case 3: self.init(.broadcast(root: root), type, by: reduction)
        default: return nil
        }
        guard self.wire == wire else { return nil }
    }
}

/// All that members must agree on before an operation can begin.
struct OperationShape: Hashable, Sendable, CustomStringConvertible {
    /// N.
    var elements = 0
    /// W, doubles in a lane row.
    var width = 0
    var codec = PayloadCodec.exact
    var form = OperationForm()

    var byteCount: Int { elements * form.type.byteCount }

    /// Whether so many bytes may carry `count` values.
    func allows(byteCount: Int, of count: Int) -> Bool {
        codec == .exact
            ? byteCount == count * form.type.byteCount : codec.allows(byteCount: byteCount, of: count)
    }

    /// For people.
    var description: String {
        "\(form.kind) of \(elements) \(form.type) values by \(form.reduction), rows of \(width), \(codec)"
    }
}
