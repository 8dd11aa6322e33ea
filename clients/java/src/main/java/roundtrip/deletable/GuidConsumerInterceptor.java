package roundtrip.deletable;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerInterceptor;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.header.internals.RecordHeaders;

/**
 * Takes the GUID off each key, and leaves out records without a value.
 *
 * <pre>{@code
 * interceptor.classes = roundtrip.deletable.GuidConsumerInterceptor
 * }</pre>
 *
 * <p>The GUID is in the header {@value #GUID_HEADER}, for who wants to have the message deleted. A key that
 * has none stays as it is.
 *
 * <p><b>Offsets.</b> What is left out here has been read, and is committed as anything else: by automatic
 * commits, by {@code commitSync()}, {@code commitAsync()}, and by what {@link ConsumerRecords#nextOffsets}
 * says, all of which go by the consumer's position and not by what {@code poll} returned. Who commits one
 * more than the offset of each record instead does not commit what was left out at the end. That is
 * harmless, since it is read and left out again, but it shows as lag: then commit
 * {@code nextOffsets()} once all records of a {@code poll} are done. An empty result of {@code poll} may
 * have such offsets, too.
 *
 * <p>Who keeps messages and has to learn of deletions reads without this interceptor: a record without a
 * value deletes the message of its {@link WireKey}. Keys are strings or byte arrays; {@link #configure}
 * refuses any other deserializer, because Kafka would hand over unchanged records, and only log why.
 *
 * @param <K> {@code String} or {@code byte[]}
 * @param <V> any
 */
public final class GuidConsumerInterceptor<K, V> implements ConsumerInterceptor<K, V> {
    /** The header of a record that was read, in which its GUID is: 36 ASCII characters. */
    public static final String GUID_HEADER = "roundtrip-guid";

    private KeyType keys;

    /** Used by Kafka, which makes one for each consumer. */
    public GuidConsumerInterceptor() {}

    /**
     * Learns of which type the consumer's keys are.
     *
     * @throws ConfigException if they are neither strings nor byte arrays
     */
    @Override
    public void configure(Map<String, ?> configs) {
        keys = KeyType.of(configs, ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG);
    }

    @Override
    public ConsumerRecords<K, V> onConsume(ConsumerRecords<K, V> records) {
        Map<TopicPartition, List<ConsumerRecord<K, V>>> left = new LinkedHashMap<>();
        for (TopicPartition partition : records.partitions()) {
            List<ConsumerRecord<K, V>> messages = new ArrayList<>();
            for (ConsumerRecord<K, V> record : records.records(partition)) {
                if (record.value() != null) {
                    messages.add(bare(record));
                }
            }
            if (!messages.isEmpty()) {
                left.put(partition, messages);
            }
        }
        // Of all partitions, also of those of which nothing is left.
        return new ConsumerRecords<>(left, records.nextOffsets());
    }

    private ConsumerRecord<K, V> bare(ConsumerRecord<K, V> record) {
        Optional<WireKey<K>> split = keys.split(record.key());
        if (split.isEmpty()) {
            return record;
        }
        Headers headers = new RecordHeaders(record.headers().toArray()).remove(GUID_HEADER);
        headers.add(GUID_HEADER, split.get().guid().getBytes(StandardCharsets.US_ASCII));
        return new ConsumerRecord<>(
                record.topic(),
                record.partition(),
                record.offset(),
                record.timestamp(),
                record.timestampType(),
                record.serializedKeySize() - WireKey.SUFFIX_BYTES,
                record.serializedValueSize(),
                split.get().key(),
                record.value(),
                headers,
                record.leaderEpoch(),
                record.deliveryCount());
    }

    @Override
    public void onCommit(Map<TopicPartition, OffsetAndMetadata> offsets) {}

    @Override
    public void close() {}
}
