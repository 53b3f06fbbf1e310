internal import Basics

/// The token that clients send as `Authorization: Bearer …`.
struct BearerToken: Sendable {
    private let key = Redacted(Sealing.randomBytes(32))
    private let token: Redacted<String>

    init(_ token: Redacted<String>) { self.token = token }

    /// Compares without telling by its time how much of the token is right.
    ///
    /// - Parameter header: the value of `Authorization`.
    func accepts(_ header: String?) -> Bool {
        guard let header, header.utf8.count > 7, header.prefix(7).lowercased() == "bearer " else {
            return false
        }
        let given = Sealing.authenticationCode(for: Array(header.dropFirst(7).utf8), key: key)
        return Sealing.isValid(given, for: Array(token.value.utf8), key: key)
    }
}
