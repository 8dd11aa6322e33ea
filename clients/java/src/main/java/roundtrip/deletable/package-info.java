/**
 * Reading and writing topics of which single messages can be deleted, with Kafka's own Java client.
 *
 * <p>Such a topic belongs to a service of the gateway with {@code deletable = true}. Each record has a key of
 * its own there, {@link roundtrip.deletable.WireKey}; one with the same key and a null value deletes it.
 */
package roundtrip.deletable;
