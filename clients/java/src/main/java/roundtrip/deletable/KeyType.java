package roundtrip.deletable;

import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.Optional;
import org.apache.kafka.common.config.ConfigException;

/**
 * The types that a key may have, and what the interceptors do with each.
 *
 * <p>Kafka logs what an interceptor throws, and goes on with the record as it was. So a client whose keys
 * are of another type must not come into being: what is configured is checked.
 */
enum KeyType {
    TEXT,
    BYTES;

    private static final String PACKAGE = "org.apache.kafka.common.serialization.";

    /**
     * The type of a client's keys, by its serializer or deserializer.
     *
     * @throws ConfigException if it is another than these
     */
    static KeyType of(Map<String, ?> configs, String option) {
        Object given = configs.get(option);
        String name = given instanceof Class<?> type ? type.getName() : String.valueOf(given);
        if (name.startsWith(PACKAGE + "String")) {
            return TEXT;
        }
        if (name.startsWith(PACKAGE + "ByteArray")) {
            return BYTES;
        }
        throw new ConfigException(option, name, "keys with a GUID are strings or byte arrays");
    }

    /** The key with a GUID that no message has yet. A record without a key gets the GUID for one. */
    @SuppressWarnings("unchecked")
    <K> K withGuid(K key) {
        String guid = WireKey.newGuid();
        return switch (this) {
            case TEXT -> (K) WireKey.of(key == null ? guid : (String) key, guid);
            case BYTES -> (K) WireKey.of(key == null ? ascii(guid) : (byte[]) key, guid);
        };
    }

    /** Key and GUID; empty if there is no GUID. */
    @SuppressWarnings("unchecked")
    <K> Optional<WireKey<K>> split(K key) {
        Optional<?> split = Optional.empty();
        if (key != null) {
            split = this == TEXT ? WireKey.split((String) key) : WireKey.split((byte[]) key);
        }
        return (Optional<WireKey<K>>) split;
    }

    private static byte[] ascii(String text) {
        return text.getBytes(StandardCharsets.US_ASCII);
    }
}
