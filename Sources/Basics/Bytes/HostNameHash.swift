internal import Crypto

extension Sealing {
    /// HMAC-SHA-1, 20 bytes: how OpenSSH hides host names in `known_hosts`.
    ///
    /// For reading that file format only; SHA-1 proves nothing.
    public static func hostNameHash(_ name: String, salt: [UInt8]) -> [UInt8] {
        Array(
            HMAC<Insecure.SHA1>.authenticationCode(for: Array(name.utf8), using: SymmetricKey(data: salt))
        )
    }
}
