package roundtrip.deletable;

import java.util.Map;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerInterceptor;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.config.ConfigException;

/**
 * Gives each record that has none a GUID: its key {@code order-7} becomes {@code order-7#<guid>}.
 *
 * <p>Use it together with {@link GuidPartitioner}:
 *
 * <pre>{@code
 * interceptor.classes = roundtrip.deletable.GuidProducerInterceptor
 * partitioner.class = roundtrip.deletable.GuidPartitioner
 * }</pre>
 *
 * <p>A key that ends with {@code #} and a GUID stays as it is: so who has to know the GUID makes the key
 * with {@link WireKey#of(String, String)}, and a record that is sent again keeps its key. So does a record
 * without a value, which deletes the message of its key: a new GUID would make it delete nothing. If it
 * lacks its GUID, {@link GuidPartitioner} refuses it. A record without a key gets its GUID for one.
 *
 * <p>Keys are strings in an encoding that contains ASCII, or byte arrays. {@link #configure} refuses any
 * other serializer, because Kafka would send records without a GUID, and only log why.
 *
 * @param <K> {@code String} or {@code byte[]}
 * @param <V> any
 */
public final class GuidProducerInterceptor<K, V> implements ProducerInterceptor<K, V> {
    private KeyType keys;

    /** Used by Kafka, which makes one for each producer. */
    public GuidProducerInterceptor() {}

    /**
     * Learns of which type the producer's keys are.
     *
     * @throws ConfigException if they are neither strings nor byte arrays
     */
    @Override
    public void configure(Map<String, ?> configs) {
        keys = KeyType.of(configs, ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG);
    }

    @Override
    public ProducerRecord<K, V> onSend(ProducerRecord<K, V> record) {
        if (record.value() == null || keys.split(record.key()).isPresent()) {
            return record;
        }
        return new ProducerRecord<>(
                record.topic(),
                record.partition(),
                record.timestamp(),
                keys.withGuid(record.key()),
                record.value(),
                record.headers());
    }

    @Override
    public void close() {}
}
